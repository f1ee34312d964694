"""Models: what they are called, where their weights come from, and how they are loaded."""
