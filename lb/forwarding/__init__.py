"""How one request gets to a worker, and what is done when that comes to nothing."""
