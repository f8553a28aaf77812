"""Training: targets, matching, losses, data, loop."""
