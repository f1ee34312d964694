"""Files and folders on disk, never half-written or lost."""
