"""Counts, series and their exposition."""
