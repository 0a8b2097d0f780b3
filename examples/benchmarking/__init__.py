"""What examples/benchmark.py is made of: the networks, the measuring, and what is counted."""
