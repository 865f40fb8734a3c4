"""From logits to the next token: filters, the draw, the loop."""
