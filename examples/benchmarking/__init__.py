"""The parts of examples/benchmark.py: networks, measurements and counts."""
