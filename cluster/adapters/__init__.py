"""LoRA adapters: the registry, the files, and which worker holds what."""
