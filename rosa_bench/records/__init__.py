"""Records of runs: their type, and how they are stored."""
