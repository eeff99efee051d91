"""Measuring: a load against a server (`bench`), and settings against each other on the real engine (`tune`).

The serving process imports nothing of this; what tables and pictures need is the optional extra `tune`.
"""
