"""The bring-up procedure of Prometheus as commands."""

__version__ = "0.4.0"
