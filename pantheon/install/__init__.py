"""Section 2 brought about: what is installed, in what order."""
