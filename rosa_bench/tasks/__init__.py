"""Tasks by kind: what is declared, and how it is prepared for training."""
