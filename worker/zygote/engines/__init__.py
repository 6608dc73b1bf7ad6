"""One file an engine whose workers may be forked."""
