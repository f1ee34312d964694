"""Language modelling: continue a text, scored by its loss and by bits per character."""
