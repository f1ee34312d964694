"""What methods need that train or reduce whole weights: gates, chosen entries, projectors."""
