"""Tools for training: losses, learning-rate schedules and parameter groups."""
