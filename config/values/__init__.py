"""What a setting may be. Pure."""
