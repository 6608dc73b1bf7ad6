"""Servers that this cluster did not start, found where somebody lists them."""
