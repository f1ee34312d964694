"""Declare a model from its own configuration and modules, for ``model=auto`` and models that the user loads."""
