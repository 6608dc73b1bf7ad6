"""Bytes: of weights, of room for adapters, of the KV cache, and what is beside them. Pure.

As vLLM 0.32 allocates them, read from its source; `tests/e2e` compares with what it says on the demo model.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.tools.sizing import matrices
from cluster.tools.sizing.files import Stored
from cluster.tools.sizing.matrices import Matrix
from cluster.tools.sizing.model import DTYPE_BYTES, ModelShape

GIB = 1024**3

#: Tokens a block of the cache holds: vLLM's defaults.
GPU_BLOCK, CPU_BLOCK = 16, 128

#: Of a GPU's memory, unless somebody says otherwise (``--gpu-memory-utilization``).
UTILIZATION = 0.92

#: CUDA's context, its graphs and workspaces; and what several GPUs need to speak to each other. Estimates.
_GPU_FIXED, _GPU_TALK = 1 * GIB, GIB // 2

#: vLLM's defaults above and below 70 GiB of GPU memory: tokens a step, requests at a time.
_BIG_GPU, _BIG, _SMALL = 70 * GIB, (8192, 1024), (2048, 256)


@dataclass(frozen=True, slots=True)
class Weights:
    """``bytes`` of the whole model; ``parameters`` None where the files do not say. ``counted``: from the files."""

    bytes: int
    parameters: int | None
    counted: bool

    def each(self, model: ModelShape, ranks: int) -> int:
        """Of one of ``ranks`` GPUs: what cannot be cut is on all of them."""
        whole = min(self.bytes, matrices.whole(model) * DTYPE_BYTES[model.dtype])
        return -(-(self.bytes - whole) // ranks) + whole


def weights(model: ModelShape, stored: Stored | None) -> Weights:
    """From the files' headers, or by the architecture where there are none."""
    size = DTYPE_BYTES[model.dtype]
    if stored is not None:
        return Weights(stored.plain * size + stored.packed, stored.parameters, True)
    total = matrices.parameters(model)
    if model.quantization is None:
        return Weights(total * size, total, False)
    packed = sum(matrix.parameters for matrix in matrices.matrices(model) if _quantized(model, matrix))
    return Weights((total - packed) * size + model.quantization.bytes_of(packed), total, False)


def _quantized(model: ModelShape, matrix: Matrix) -> bool:
    if model.quantization is not None and model.quantization.method == "mxfp4":
        return matrix.name.startswith("experts.")
    return matrix.cut in ("in", "out")


def adapted_numbers(model: ModelShape, ranks: int) -> int:
    """Inputs plus outputs of all matrices that adapters may change, on one of ``ranks`` GPUs: a rank costs as much."""
    adapted = (m for m in matrices.matrices(model) if m.adapted)
    return sum(m.copies * (_inputs(m, ranks) + _outputs(model, m, ranks)) for m in adapted)


def adapters(model: ModelShape, ranks: int, slots: int, rank: int) -> int:
    """What vLLM sets aside for ``slots`` adapters (``--max-loras``) of up to ``rank``, used or not."""
    return slots * rank * adapted_numbers(model, ranks) * DTYPE_BYTES[model.dtype]


def _inputs(matrix: Matrix, ranks: int) -> int:
    return -(-matrix.inputs // ranks) if matrix.cut == "in" else matrix.inputs


def _outputs(model: ModelShape, matrix: Matrix, ranks: int) -> int:
    if matrix.cut != "out":
        return matrix.outputs
    if matrix.name in ("k_proj", "v_proj"):
        return model.kv_heads_each(ranks) * model.head_dim
    return -(-matrix.outputs // ranks)


@dataclass(frozen=True, slots=True)
class Cache:
    """The KV cache of one GPU. Layers come in ``groups`` of ``width``; those that look back a window only come in
    ``windowed`` more. A block holds ``block`` tokens of one group."""

    block: int
    width: int
    groups: int
    windowed: int
    token_bytes: int
    window: int = 0
    in_flight: int = 0

    @property
    def block_bytes(self) -> int:
        return self.block * self.width * self.token_bytes

    def request_blocks(self, context: int) -> int:
        """Of one request that fills ``context`` tokens."""
        full = -(-context // self.block)
        near = -(-min(self.window - 1 + self.in_flight, context) // self.block) + 1 if self.windowed else 0
        return self.groups * full + self.windowed * near

    def request_bytes(self, context: int) -> int:
        return self.request_blocks(context) * self.block_bytes

    def blocks(self, room: int) -> int:
        return max(0, room) // self.block_bytes

    def at_once(self, room: int, context: int) -> float:
        """Requests of ``context`` tokens that ``room`` bytes hold ("Maximum concurrency" in vLLM's log)."""
        return self.blocks(room) / self.request_blocks(context)

    def tokens(self, room: int, context: int) -> int:
        """What vLLM calls the size of the cache."""
        return int(self.at_once(room, context) * context)


def cache(model: ModelShape, ranks: int, dtype: str, *, on_gpu: bool, gpu_memory: int = 0) -> Cache:
    """``dtype``: auto (the model's) or one of 8 bits, as ``--kv-cache-dtype`` says."""
    size = DTYPE_BYTES[model.dtype] if dtype == "auto" else 1
    near, full = model.windowed, model.layers - model.windowed
    width = model.layers
    if near and full:
        width = max(near, full) if max(near, full) < 1.5 * min(near, full) else min(near, full)
    return Cache(
        block=GPU_BLOCK if on_gpu else CPU_BLOCK, width=width, groups=-(-full // width), windowed=-(-near // width),
        token_bytes=model.cached(ranks) * size, window=model.window or 0, in_flight=2 * batch(gpu_memory)[0],
    )  # fmt: skip


def batch(gpu_memory: int) -> tuple[int, int]:
    """Tokens a step and requests at a time, vLLM's defaults."""
    return _BIG if gpu_memory >= _BIG_GPU else _SMALL


def gpu_overhead(model: ModelShape, ranks: int, gpu_memory: int) -> int:
    """An estimate: what one step takes at its peak, and what CUDA takes for itself. vLLM measures it at its start."""
    tokens, requests = batch(gpu_memory)
    inner = max(model.inner, model.expert_inner * model.experts_each + model.shared_inner)
    step = tokens * (4 * model.hidden + 3 * -(-inner // ranks)) * DTYPE_BYTES[model.dtype]
    logits = 2 * requests * model.vocab * 4  # float32, and once more to sort them
    return _GPU_FIXED + (_GPU_TALK if ranks > 1 else 0) + max(step, logits)
