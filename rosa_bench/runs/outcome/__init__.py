"""What a run reports and leaves: results, predictions, forgetting, its record."""
