"""Layers of several runs that train in one pass."""
