"""What examples/personalize_study.py is made of."""
