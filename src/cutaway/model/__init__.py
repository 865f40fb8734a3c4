"""The decoder, from ids to logits, and the seam through which it is watched."""
