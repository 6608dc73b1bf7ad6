"""One cluster with models on engines that are not vLLM, through the `openai` client: what they can is as with vLLM, and
what they cannot ends in words."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from harness import Cluster, free_port, poll

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

_FRANCE: list[Any] = [{"role": "user", "content": "The capital of France is"}]

#: The end of the demo model's answers is made impossible: one that goes on. A sample, which nobody can make again.
_ENDLESS: dict[str, Any] = {"max_tokens": 1900, "logit_bias": {"2": -100}, "temperature": 1}


#: Models by the engine of their workers.
_MODELS = {
    engine: {"path": "demo", "engine": engine, "instances": 2, "on_demand": False} for engine in ("transformers", "mlx")
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("engines")
    (folder / "cluster.yaml").write_text(json.dumps({"models": _MODELS}))
    cluster = Cluster(folder, free_port())
    try:
        up = cluster.up("--config", str(folder / "cluster.yaml"), timeout=200)
        assert up.returncode == 0, up.stderr
        cluster.wait_ready(4, 150)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def client(cluster: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.mark.parametrize("model", _MODELS)
def test_chats_are_answered_whole_and_streamed_more_at_a_time_than_it_computes(
    cluster: Cluster, client: openai.OpenAI, model: str
) -> None:
    assert {card.id for card in client.models.list()} >= set(_MODELS)

    def ask(stream: bool) -> str:
        made: Any = client.chat.completions.create(model=model, messages=_FRANCE, temperature=0, stream=stream)
        if not stream:
            return str(made.choices[0].message.content)
        return "".join(chunk.choices[0].delta.content or "" for chunk in made if chunk.choices)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, [True, False] * 12))
    assert set(answers) == {"The capital of France is Paris. It lies on the river Seine."}
    assert cluster.ask("GET", "/metrics").status_code == 200  # to which such workers have nothing to say


@pytest.mark.parametrize("model", _MODELS)
def test_what_it_cannot_do_is_said(cluster: Cluster, client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=_FRANCE)
    with pytest.raises(openai.BadRequestError, match="does not support it"):
        client.chat.completions.create(model=model, messages=_FRANCE, response_format={"type": "json_object"})
    adapter = {"lora_name": "pirate", "lora_path": "/none/such", "model": model}
    refused = cluster.post("/v1/load_lora_adapter", adapter)
    assert refused.status_code == 409 and "takes no adapters" in refused.text


@pytest.mark.parametrize("model", _MODELS)
def test_a_stream_whose_worker_dies_ends_with_an_error_and_the_next_is_served(
    cluster: Cluster, client: openai.OpenAI, model: str
) -> None:
    before = cluster.wait_ready(4, 60)["instances"]
    stream: Any = client.chat.completions.create(model=model, messages=_FRANCE, stream=True, **_ENDLESS)
    came = [next(stream).choices[0].delta.content for _ in range(5)]
    assert any(came)
    (busy,) = [name for name, one in poll(lambda: _busy(cluster), 5, "a worker with a request").items()]
    os.kill(before[busy]["pid"], signal.SIGKILL)
    with pytest.raises(openai.APIError) as error:
        list(stream)
    assert "it cannot be continued" in str(error.value)
    answer = client.chat.completions.create(model=model, messages=_FRANCE, temperature=0)
    assert answer.choices[0].finish_reason == "stop"
    after = cluster.wait_ready(4, 60)["instances"]
    assert after[busy]["pid"] != before[busy]["pid"]


def _busy(cluster: Cluster) -> dict[str, Any]:
    return {name: one for name, one in cluster.status()["instances"].items() if one["in_flight"]}

