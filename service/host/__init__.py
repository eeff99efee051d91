"""Limits of the machine or container: CPUs and memory."""
