"""Changes of values and weights, as data and as applied in a pass."""
