"""HTML for browsers and notebooks: a page that shows where each word of a text is in an image.

The page is one file. It loads nothing from a network, and it needs no server.
"""
