"""Which versions are loaded, and which one answers."""
