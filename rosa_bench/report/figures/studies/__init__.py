"""Figures that are not in the paper: capacity, language models, memory, methods, resampling and learning rates."""
