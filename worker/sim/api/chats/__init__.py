"""The APIs that are answered by a chat, in shapes of their own."""
