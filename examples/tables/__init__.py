"""The parts of examples/caption_table_scale.py: made-up captions, and opening a file of captions."""
