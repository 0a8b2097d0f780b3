"""The parts of examples/large_image.py: seams and memory."""
