"""HTTP/1.1 as bytes: heads and framing, both ways. Pure: bytes in, facts or bytes out."""
