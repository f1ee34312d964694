"""Configuration files: where they are, and what they say without being composed."""
