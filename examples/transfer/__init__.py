"""What examples/cross_domain.py is made of: the data, one run, the page."""
