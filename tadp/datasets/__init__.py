"""Data sets in one form: image, mask, depth, boxes, captions."""
