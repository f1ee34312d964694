"""Layers that replace linear layers, and functions to insert and remove them."""
