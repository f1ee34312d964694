"""Models: how they are declared and loaded."""
