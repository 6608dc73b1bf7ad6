"""Which backend takes a request."""
