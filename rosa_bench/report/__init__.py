"""From records to tables: what may be compared, which cell is shown, and how it is written. Never imports torch."""
