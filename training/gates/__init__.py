"""Gates: the checks that a run must pass before its model is published."""
