"""A worker that runs llama.cpp: its server in a process of its own, and in front of it one that speaks as vLLM does."""
