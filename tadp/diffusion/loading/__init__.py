"""A model folder to parts of a backbone, and back."""
