"""Training data of a domain, written by a model."""
