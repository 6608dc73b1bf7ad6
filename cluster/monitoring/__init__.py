"""Whether workers are well, and what they use."""
