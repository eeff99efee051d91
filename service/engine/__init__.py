"""Batching and running of loaded versions; imports neither HTTP nor request handling."""
