"""What an answer has to be by its request, and what of its text is something else: thoughts, calls of tools."""
