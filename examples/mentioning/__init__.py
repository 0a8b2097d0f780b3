"""What examples/caption_coverage.py is made of: what is counted, its page and its plot."""
