"""The denoisers and VAEs of diffusers, run by our own loop: one pass returns feature maps and attention."""
