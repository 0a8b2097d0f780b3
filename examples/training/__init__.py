"""What the three training scripts share: options, data with captions, the loop, its checkpoints, and a study."""
