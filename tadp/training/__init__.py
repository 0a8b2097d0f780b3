"""What training takes: losses, learning-rate schedules, parameter groups."""
