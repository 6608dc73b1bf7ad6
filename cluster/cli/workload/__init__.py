"""Adapters, and requests to the models."""
