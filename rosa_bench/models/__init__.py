"""Model declarations and loading."""
