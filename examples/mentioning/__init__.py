"""The parts of examples/caption_coverage.py: counts, page and plot."""
