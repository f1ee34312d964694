"""Writing texts from prompts."""
