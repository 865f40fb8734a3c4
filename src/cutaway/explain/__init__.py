"""What a value is computed from: its formula evaluated, and one element decomposed."""
