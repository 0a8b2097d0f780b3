"""What examples/base_models.py counts: models built without weights, and the memory of a pass."""
