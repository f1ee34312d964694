"""Faster forms of the same step for small layers on a GPU."""
