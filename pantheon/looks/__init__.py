"""What pantheon/probe.py looks with, a file for each part of the host. Like it, these run ON the host: they are sent
there, with the standard library and pynvml alone, on Python 3.10 and later (remote/shipped.py)."""
