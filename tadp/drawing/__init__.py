"""Pictures: heat maps of words, classes, depth and boxes, contact sheets."""
