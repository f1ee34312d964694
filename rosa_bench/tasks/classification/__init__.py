"""Classification of texts or pairs, and regression on them."""
