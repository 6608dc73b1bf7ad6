"""Who and what is let in: callers and what they may ask for, connections, bodies and the memory for them."""
