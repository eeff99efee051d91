"""Measuring commands: `bench` loads a server over HTTP, `tune` tries settings on the real engine.

Not part of the serving image: the server imports nothing from here. Tables and charts need the
extra `tune`.
"""
