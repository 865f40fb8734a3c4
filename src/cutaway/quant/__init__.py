"""Eight bits: the arithmetic and the layers that use it."""
