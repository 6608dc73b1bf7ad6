"""What an engine's steps cost on one kind of machine. Pure. Times are s, sizes bytes.

A decode step reads the weights once and every sequence's keys and values once, so it is bound by memory bandwidth; the
prefill of a prompt is bound by arithmetic (Pope et al., "Efficiently Scaling Transformer Inference", 2023; the same
roofline as in Agrawal et al., "Vidur", 2024).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

#: Tokens a block of a prompt, as prefix caches keep them: that of the recorded traffic in `sim/`.
BLOCK = 512


@dataclass(frozen=True, slots=True)
class EngineCosts:
    """A step with ``n`` sequences of ``context`` tokens in all that decode, and ``new`` tokens of prompts of which each
    attends to those before it (``pairs`` of tokens), takes

        (step + n x sequence + context x context_token) x tax(rank)
            + (new x prefill_token + pairs x prefill_pair) x prefill_tax(rank)

    where ``rank`` is the largest of the adapters in the batch: the kernels of all pay for it (Li et al., "Toppings",
    2025; Jaiswal et al., "LoRAServe", 2025). An adapter comes into a slot between two steps, and nothing runs
    meanwhile, as in vLLM: ``load`` and its bytes from host memory, ``disk_load`` and its bytes from disk."""

    name: str
    step: float
    sequence: float
    context_token: float
    prefill_token: float
    prefill_pair: float
    kv_tokens: int
    batched_tokens: int
    seats: int
    tax_base: float
    tax_rank: float
    prefill_share: float
    adapter_bytes_rank: float
    load: float
    load_bandwidth: float
    disk_load: float
    disk_bandwidth: float

    def tax(self, rank: int) -> float:
        """1 for a batch without adapters (rank 0)."""
        return 1.0 + self.tax_base + self.tax_rank * rank if rank else 1.0

    def prefill_tax(self, rank: int) -> float:
        """Arithmetic hides most of it."""
        return 1.0 + self.prefill_share * (self.tax(rank) - 1.0)

    def load_time(self, rank: int) -> float:
        """From host memory into a slot."""
        return self.load + rank * self.adapter_bytes_rank / self.load_bandwidth

    def fetch_time(self, rank: int) -> float:
        """From disk into host memory."""
        return self.disk_load + rank * self.adapter_bytes_rank / self.disk_bandwidth

    def with_tax(self, factor: float) -> EngineCosts:
        """With ``factor`` times what adapters cost here."""
        return replace(self, tax_base=self.tax_base * factor, tax_rank=self.tax_rank * factor)


#: Llama 3 8B in bfloat16 on one H100 SXM: 16.06 GB of weights and 128 KiB of keys and values a token (32 layers, 8
#: heads of 128, two bytes, twice), 3.35 TB/s of which 80 % are reached, 989 TFLOP/s of which 60 % are; 72 GB of its 80
#: for the engine. 1.3 ms a step and 25 us a sequence are what the host adds. ``batched_tokens`` is vLLM's default on
#: one. An adapter of all linear layers has 2.62 M parameters a rank. What adapters cost a step (1.10 times at rank 8,
#: 1.16 at 16, 1.47 at 64, 1.90 at 128) is an assumption, which the sweep varies.
H100_8B = EngineCosts(
    name="h100-8b", step=0.0073, sequence=25e-6, context_token=0.0489e-6, prefill_token=27e-6, prefill_pair=0.88e-9,
    kv_tokens=420_000, batched_tokens=8192, seats=256, tax_base=0.05, tax_rank=0.0066, prefill_share=0.25,
    adapter_bytes_rank=5.24e6, load=0.015, load_bandwidth=20e9, disk_load=0.12, disk_bandwidth=2e9,
)  # fmt: skip

PROFILES = {each.name: each for each in (H100_8B,)}
