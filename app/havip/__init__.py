"""A virtual IP address that always reaches a healthy node."""

# Nothing is imported here: it would be run before `__main__` can take a signal.
__version__ = "0.1.0"
