"""The figure at the head of the README, and its two parts."""
