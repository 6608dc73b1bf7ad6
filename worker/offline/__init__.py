"""The model and its experts (LoRA adapters) without a server: vLLM in this program, by a cluster's settings."""

from worker.offline.engine import OfflineEngine
from worker.offline.values import Expert, Generation, OfflineError, RequestRefused, StreamPiece, UnknownExpert

__all__ = ["Expert", "Generation", "OfflineEngine", "OfflineError", "RequestRefused", "StreamPiece", "UnknownExpert"]
