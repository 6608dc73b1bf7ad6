"""What the simulated worker answers: vLLM's routes, the fields that they take and the shapes of their answers."""
