"""A file of requests, answered in order."""
