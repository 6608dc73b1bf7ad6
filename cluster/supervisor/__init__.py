"""One task that owns the state, and what it is put together from."""
