"""Definitions without computation: a model's facts, the names of its values, the letters of shapes, the errors."""
