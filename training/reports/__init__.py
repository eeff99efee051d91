"""What there is to see of runs, as pages that need nothing beside themselves."""
