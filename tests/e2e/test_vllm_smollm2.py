"""A real small model on real vLLM, as one of several: what it says is true, and has the form that was asked for. Its
weights are those that llama.cpp serves (`tests/e2e/test_llamacpp.py`), put into the form that vLLM reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from demo import smollm2
from harness import Cluster, poll
from worker.engines.llamacpp import ENGINE, SMOLLM2

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

_FRANCE: Any = [{"role": "user", "content": "Tell me the capital of France."}]
_CITY: Any = {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 40}, "large": {"type": "boolean"}},
    "required": ["city", "large"], "additionalProperties": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def client(vllm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """Of the cluster with ``smol`` loaded, which the first request waits for."""
    folder: Path = tmp_path_factory.mktemp("smollm2") / "model"
    smollm2.make(Path(ENGINE.locate(SMOLLM2, "--model")), folder)
    body = {
        "model_name": "smol", "model_path": str(folder), "engine": "vllm",
        "args": ["--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "8", "--enable-auto-tool-choice",
                 "--tool-call-parser", "hermes"],
    }  # fmt: skip
    answer = vllm.post("/v1/models/load", body)
    assert answer.status_code == 202, answer.text
    yield openai.OpenAI(base_url=f"{vllm.url}/v1", api_key="none", max_retries=0, timeout=240)
    assert vllm.ask("DELETE", "/v1/models/smol").status_code == 202
    poll(lambda: not [name for name in vllm.status()["instances"] if name.startswith("smol/")], 60, "it is gone")


def test_it_knows_what_it_is_asked_streamed_or_not(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "smol", "messages": _FRANCE, "temperature": 0, "max_tokens": 20}
    said = client.chat.completions.create(**asked).choices[0]
    assert (said.message.content, said.finish_reason) == ("The capital of France is Paris.", "stop")
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == said.message.content


def test_json_has_the_form_of_its_schema(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "smol", "messages": _FRANCE, "temperature": 0, "max_tokens": 120}
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": _CITY}}
    found = json.loads(str(client.chat.completions.create(**asked, response_format=form).choices[0].message.content))
    assert found["city"] == "Paris" and isinstance(found["large"], bool) and len(found) == 2
