"""Words, not work: the facts of a model, the names of its values, the letters of shapes, the errors."""
