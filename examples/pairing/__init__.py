"""The parts of examples/matching.py: pairs of scenes with known correspondence."""
