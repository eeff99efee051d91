"""One prediction request, step by step."""
