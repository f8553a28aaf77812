"""From a bag or a data set to numbers one can trust."""
