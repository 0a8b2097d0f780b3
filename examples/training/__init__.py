"""Code that the training scripts share: options, data with captions, the loop, checkpoints and the report."""
