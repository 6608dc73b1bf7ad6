"""API keys: which there are, and what may be changed about them."""
