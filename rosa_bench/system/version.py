"""The version of the package, from which everything else reads it."""

__version__ = "0.2.0"
