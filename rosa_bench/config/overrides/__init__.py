"""What a user types: its grammar, and its mistakes."""
