"""Trained vectors before the text, and trained keys and values."""
