"""Sources of model weights: the hub, a wheel, a local folder or random initialisation."""
