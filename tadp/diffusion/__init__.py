"""The denoisers and VAEs of diffusers, run by our own loop: one pass to feature maps and attention."""
