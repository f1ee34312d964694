"""What watches a run at the hook points of the loop: progress, selection, pauses, collapse."""
