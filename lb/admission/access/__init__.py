"""Who may ask: for models, for responses, for the management API and its page."""
