"""The prediction pipeline, which every protocol shares."""
