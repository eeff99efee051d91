"""What learns and from what: networks, recipes, batches, the optimiser and one step; nothing here knows of a run or a file."""
