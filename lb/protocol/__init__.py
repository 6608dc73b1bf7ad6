"""What clients and workers say to each other, as bytes and values."""
