"""What examples/caption_table_scale.py is made of: made-up captions, and opening a file of them."""
