"""Our methods inside other libraries' loops. Nothing else in the package imports this folder."""
