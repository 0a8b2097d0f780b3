"""Files: whole or not at all, from a folder or the hub, and packages that may not be installed."""
