"""Files that are written whole or not at all, models from a folder or the hub, and optional packages."""
