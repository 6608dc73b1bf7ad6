"""How workers are started, watched and stopped."""
