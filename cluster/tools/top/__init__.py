"""A cluster in a terminal, as it changes."""
