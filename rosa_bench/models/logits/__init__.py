"""Logits and losses of large vocabularies in less memory and time."""
