"""The parts of examples/personalize_study.py: conditions, learning, measurements and the page."""
