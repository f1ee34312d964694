"""Rows and batches: read, tokenize, order and pad. Knows no task."""
