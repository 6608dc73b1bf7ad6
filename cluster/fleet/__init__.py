"""States and decisions: pure."""
