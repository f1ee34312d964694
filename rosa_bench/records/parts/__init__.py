"""The typed parts of a record."""
