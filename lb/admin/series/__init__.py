"""Series that are read off what others keep."""
