"""A worker's side of an answer made again, tokens first (`config.replay`)."""
