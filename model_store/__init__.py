"""A sealed version of a model and how to run it: manifest, store, aliases, preprocessing, session.

`training` publishes through this package and `service` serves through it, so both compute the same
answer from the same bytes. It imports neither of them, no torch and no web framework.
"""

__version__ = "0.1.0"
"""The version of the project, as in `pyproject.toml`."""
