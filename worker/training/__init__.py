"""LoRA adapters made of examples: `loop.py` trains, `data.py` and `examples.py` say on what. A job: ``train``."""
