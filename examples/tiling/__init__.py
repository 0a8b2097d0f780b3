"""What examples/large_image.py is made of: seams, and memory."""
