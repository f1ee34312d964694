"""Memorisation of random facts."""
