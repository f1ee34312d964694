"""What is taken home: the adapter that a run leaves, and exports of runs."""
