"""How the demo model and its adapters are made. Not installed: `worker/demo` holds what comes of it."""
