"""Importing: a network that was trained elsewhere becomes a sealed version with the same contract as our own."""
