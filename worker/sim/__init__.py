"""A simulated vLLM 0.32 worker: the same HTTP surface, no model. Run it with ``python -m worker.sim``."""
