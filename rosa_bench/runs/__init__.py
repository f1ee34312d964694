"""A run: resolved, planned, locked, executed and recorded."""
