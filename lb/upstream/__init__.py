"""The connections to backends."""
