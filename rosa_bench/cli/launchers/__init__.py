"""Launchers of sweeps that Hydra calls: through Ray, and of several runs in one pass."""
