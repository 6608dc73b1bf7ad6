"""How requests are spread: one file a strategy, all of them listed in `registry`."""
