"""The tributary: a name becomes files, files become a loaded Decoder."""
