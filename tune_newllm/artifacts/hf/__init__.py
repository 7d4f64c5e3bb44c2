"""A file that `export` copies into a checkpoint, where it stands beside the model's own code."""
