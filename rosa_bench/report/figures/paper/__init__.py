"""Figures 2 to 6 of the paper, one file each."""
