"""Servers of other engines as workers: each answers for its own models only, to its own cluster only."""
