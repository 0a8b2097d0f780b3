"""Load the parts of a backbone from a model folder, and save them."""
