"""Words about runs and cells: what they share, change and measure."""
