"""The residual-learning laboratory: what the theory claims, shown on real data. A module an experiment, over shared trainings."""
