"""From nothing to an answer, on real vLLM: that what was trained is what the engine says, of an adapter, of versions
side by side, and of a merged model, no cheaper test shows. With a larger model: `tests/soak/test_vllm_training.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from fromnothing import cleared, walk
from harness import Cluster

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]

#: As little as teaches an answer of a few words; the machine is the test's.
_TRAINED = (
    "--rank", "8", "--epochs", "16", "--batch-size", "8", "--grad-accum", "1", "--lr", "0.004", "--dropout", "0",
    "--no-background",
)  # fmt: skip


def test_from_a_data_set_to_an_answer(vllm: Cluster, tmp_path: Path) -> None:
    vllm.wait_ready(3, 300)
    with cleared(vllm):
        walk(vllm, tmp_path, "demo", _TRAINED)
