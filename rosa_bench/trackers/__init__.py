"""Experiment trackers, one file per tool."""
