"""The parts of examples/base_models.py: models without weights, and the memory of a pass."""
