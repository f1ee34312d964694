"""What figures share: styles, names, axes, lines and dots."""
