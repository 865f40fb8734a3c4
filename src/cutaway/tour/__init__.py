"""The tour: one prompt from text to text, stage by stage, from a single run."""
