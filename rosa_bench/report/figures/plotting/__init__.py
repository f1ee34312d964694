"""What figures share: panels, lines, dots, names, axes and styles."""
