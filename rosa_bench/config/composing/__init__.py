"""From configuration files and overrides to checked settings, in a fraction of Hydra's time."""
