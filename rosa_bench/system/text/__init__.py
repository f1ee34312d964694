"""Text that comes from elsewhere: names, JSON, and what is safe to show."""
