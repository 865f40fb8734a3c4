"""Recording the values of a pass."""
