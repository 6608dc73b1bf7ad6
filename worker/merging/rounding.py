"""How values become smaller: by rounding alone, a scale a row of each linear layer, with vLLM's own library.

``int8``: weights and, when it computes, activations of 8 bits; ``fp8``: the same in float8, for GPUs from Ada on. What
needs examples to be calibrated on (GPTQ, AWQ, 4 bits) is llm-compressor's, which cannot be installed beside vLLM 0.32:
the two ask for other versions of transformers and of compressed-tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from compressed_tensors.quantization import QuantizationConfig, preset_name_to_scheme
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import calculate_qparams

#: The library's name of each, the type of its values in a file and in torch, and the format that engines know it by.
SCHEMES = {
    "int8": ("INT8", "I8", torch.int8, "int-quantized"),
    "fp8": ("FP8_DYNAMIC", "F8_E4M3", torch.float8_e4m3fn, "float-quantized"),
}


class RoundedWeights:
    """By one of `SCHEMES`."""

    def __init__(self, scheme: str) -> None:
        preset, self.file_type, self._type, self._format = SCHEMES[scheme]
        self._scheme = preset_name_to_scheme(preset, ["Linear"])

    def config(self, ignored: list[str]) -> dict[str, Any]:
        """For the model's config.json; ``ignored``: linear layers that are as they were."""
        found = QuantizationConfig(
            config_groups={"group_0": self._scheme}, format=self._format, ignore=ignored,
            quantization_status="compressed",
        )
        return dict(found.model_dump(mode="json", exclude_none=True))

    def rounded(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a matrix, its small values and the scale of each row, as a column."""
        values, arguments = weight.float(), self._scheme.weights
        assert arguments is not None
        scale, zero = calculate_qparams(
            values.amin(1, keepdim=True), values.amax(1, keepdim=True), arguments
        )
        return quantize(values, scale, zero, arguments, dtype=self._type), scale
