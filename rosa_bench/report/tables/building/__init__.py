"""What tables are built from, and a finished one in memory."""
