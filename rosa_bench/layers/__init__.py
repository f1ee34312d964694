"""Layers that replace linear ones, and the surgery that inserts and removes them."""
