"""Images on a disk to a checked set of them: what is there, what is wrong with it, and which image is for what."""
