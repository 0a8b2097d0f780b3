"""Transforms that keep image, mask, depth and boxes together."""
