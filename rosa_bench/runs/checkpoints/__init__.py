"""When a run's checkpoints are saved, and from which one it can go on."""
