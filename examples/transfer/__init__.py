"""The parts of examples/cross_domain.py: data, steps and page."""
