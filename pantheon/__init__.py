"""The bring-up procedure of Prometheus as commands."""

import sys

__version__ = "0.4.0"

# Invoke keeps Python from writing .pyc files, and each command would compile all of this anew: a third of a short one's
# time. What Python itself was told (-B, PYTHONDONTWRITEBYTECODE) holds.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)
