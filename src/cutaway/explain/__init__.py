"""What a value is made of: its formula recomputed, and one element taken apart."""
