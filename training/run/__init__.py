"""A training run: its request, directory, data and initial weights."""
