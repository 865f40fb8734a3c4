"""Changes of values and weights, as data and at work."""
