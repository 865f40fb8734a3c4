"""Text to ids and back: pieces, tokens, tokenizers, streaming."""
