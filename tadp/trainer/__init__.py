"""Train task models: data with captions, cached latents, the loop, checkpoints and figures. Needs the extra `train`."""
