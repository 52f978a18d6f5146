"""The lab: a disposable Prometheus in a container, for trying pantheon out and for its tests.

README.md says what is real in it and what stands in. Nothing in pantheon/ knows that it exists.
"""
