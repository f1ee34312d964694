"""Load pretrained models: their configuration, tokenizer and labels, and checks that all of it fits."""
