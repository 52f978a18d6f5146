"""What pantheon/collect.py gathers with, a file for each part. Like pantheon/looks, these run ON the host: standard
library only, Python 3.10 and later, reading and never writing."""
