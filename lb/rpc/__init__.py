"""gRPC for callers inside: the chats of routes once more, on a port of their own (decision 42)."""
