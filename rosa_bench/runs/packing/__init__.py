"""Several runs in one pass."""
