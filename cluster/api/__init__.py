"""Changes, as they are asked for."""
