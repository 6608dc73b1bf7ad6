"""GGUF, the file format of llama.cpp: reading what a model says of itself, and writing models and adapters."""
