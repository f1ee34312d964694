"""Which directions of a weight the low-rank layers train, and how single ones are exchanged."""
