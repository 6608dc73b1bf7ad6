"""Who may ask for what: the callers that are known, and how."""
