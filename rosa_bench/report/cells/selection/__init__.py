"""Which runs a cell has: comparable ones, at the learning rate that the rows that select chose."""
