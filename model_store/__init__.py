"""A sealed version of a model and how to run it: manifest, store, aliases, preprocessing (bytes to pixels), session.

Training publishes through this package and the service serves through it, so what was measured is what is served. It
imports neither of them, nor torch, nor a web framework.
"""
