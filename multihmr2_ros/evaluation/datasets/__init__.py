"""Public data sets as their users download them. Nothing of them is bundled."""
