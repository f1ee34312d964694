"""Read files that somebody else wrote, line by line and cell by cell."""
