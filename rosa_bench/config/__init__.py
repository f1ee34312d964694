"""Settings: declared once, composed by Hydra, checked, and reduced to an identity."""
