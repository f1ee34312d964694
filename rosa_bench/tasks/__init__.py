"""Tasks, one folder per kind: the declaration, and its preparation for training."""
