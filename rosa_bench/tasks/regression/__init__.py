"""Synthetic regression problems with a known solution."""
