"""The data plane: one URL in front of all workers. It knows the supervisor only by the link between them."""
