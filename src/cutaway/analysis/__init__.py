"""One question in each file."""
