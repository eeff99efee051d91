"""Networks, recipes, augmented batches, the optimizer and one training step.

Nothing here depends on run directories or files other than recipes.
"""
