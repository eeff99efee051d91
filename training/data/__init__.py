"""From images on disk to a checked data set: sources, scan, check and split."""
