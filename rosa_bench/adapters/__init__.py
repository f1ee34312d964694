"""Methods in other people's training loops, and adapters on the disk."""
