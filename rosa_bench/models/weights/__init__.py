"""Where weights come from: the hub, a wheel, a local folder or a random draw."""
