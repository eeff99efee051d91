"""The steps of a run, from training to publishing."""
