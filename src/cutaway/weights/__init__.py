"""Loading: a name becomes files, files become a Decoder."""
