"""The `multihmr2` command: one thin file per verb."""
