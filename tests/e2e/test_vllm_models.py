"""Three engines behind one URL, all of them real: vLLM with adapters, llama.cpp with adapters, transformers without.

That a model of one engine is loaded, asked, killed and unloaded beside those of others, no cheaper test shows."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from harness import Cluster, kill, poll
from simstreams import seen
from worker.demo import adapter_path, gguf_path, model_path
from worker.drivers import proc

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]

QUESTION: Any = [{"role": "user", "content": "What is clusterctl?"}]

#: By what each model is called: how its answer begins, whichever engine makes it.
BEGINNINGS = {
    "demo": "clusterctl puts", "poet": "One address",
    "small": "clusterctl puts", "corsair": "Arr, clusterctl", "plain": "clusterctl puts",
}  # fmt: skip


@pytest.fixture(scope="module")
def several(vllm: Cluster) -> Iterator[Cluster]:
    """``small`` on llama.cpp, with an adapter ``corsair``, and ``plain`` on transformers, beside what vLLM serves."""
    small = {
        "model_name": "small", "model_path": str(gguf_path()), "engine": "llamacpp", "instances": 2,
        "adapters": {"corsair": str(adapter_path("pirate"))},
    }  # fmt: skip
    for asked in (small, {"model_name": "plain", "model_path": str(model_path()), "engine": "transformers"}):
        answer = vllm.post("/v1/models/load", asked, timeout=60)
        assert answer.status_code == 202, answer.text
    yield vllm
    for name in ("small", "plain"):
        assert vllm.ask("DELETE", f"/v1/models/{name}").status_code == 202
    poll(lambda: not [name for name in vllm.status()["instances"] if "/" in name], 60, "their workers are gone")


def _client(cluster: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0, timeout=120)


def test_each_answers_streamed_or_not_and_is_listed(several: Cluster) -> None:
    client = _client(several)
    for model, beginning in BEGINNINGS.items():  # whoever is not up yet is waited for
        ask = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 40}
        answer = client.chat.completions.create(**ask)
        text = str(answer.choices[0].message.content)
        assert text.startswith(beginning), model
        chunks = list(client.chat.completions.create(**ask, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    cards = {card["id"]: card for card in several.ask("GET", "/v1/models").json()["data"]}
    assert set(cards) == {*BEGINNINGS, "pirate"}
    assert {card["status"] for card in cards.values()} == {"up"}
    assert {name: card["parent"] for name, card in cards.items() if card["parent"]} == {
        "pirate": "demo", "poet": "demo", "corsair": "small"
    }  # fmt: skip
    assert client.models.retrieve("plain").id == "plain"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="plain:corsair", messages=QUESTION)
    answer = client.chat.completions.create(model="small:corsair", messages=QUESTION, temperature=0, max_tokens=20)
    assert str(answer.choices[0].message.content).startswith(BEGINNINGS["corsair"])


def _stream(cluster: Cluster, model: str, event: Callable[[], object]) -> dict[str, Any]:
    body = {
        "model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 400, "ignore_eos": True, "stream": True
    }  # fmt: skip
    with httpx.stream("POST", f"{cluster.url}/v1/chat/completions", json=body, timeout=120) as response:
        lines = []
        for line in response.iter_lines():
            lines.append(line)
            if line:
                event()
    return seen("\n".join([*lines, ""]).encode())


@pytest.mark.parametrize("model", ["corsair", "poet"])
def test_a_killed_worker_costs_its_streams_nothing(several: Cluster, model: str) -> None:
    """Neither of llama.cpp nor of vLLM."""
    undisturbed = _stream(several, model, lambda: None)
    events, under_way = itertools.count(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        streaming = pool.submit(_stream, several, model, lambda: under_way.set() if next(events) == 40 else None)
        assert under_way.wait(60)
        busy = next(one for one in several.status()["instances"].values() if one["in_flight"])
        kill(busy["pid"])
        found = streaming.result()
    assert len(found.pop("heads")) == len(undisturbed.pop("heads")) == 1
    assert found == undisturbed


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_stream_of_which_no_tokens_are_told_is_made_again_if_it_is_greedy_or_ends_in_an_error(
    several: Cluster, temperature: int
) -> None:
    """Of transformers; its worker is back for the next request, which waits for it."""
    under_way, lines = threading.Event(), []
    body = {
        "model": "plain", "messages": QUESTION, "max_tokens": 200, "stream": True, "temperature": temperature,
        "logit_bias": {"2": -100},  # the end of an answer is made impossible
    }  # fmt: skip
    before = several.wait_ready(6, 60)["instances"]["plain/instance_0"]["pid"]

    def read() -> None:
        with (
            contextlib.suppress(httpx.RemoteProtocolError),  # it is no whole answer
            httpx.stream("POST", f"{several.url}/v1/chat/completions", json=body, timeout=120) as response,
        ):
            for line in response.iter_lines():
                lines.append(line)
                if len(lines) > 8:
                    under_way.set()

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        assert under_way.wait(60)
        kill(before)
        reading.result()
    whole, broken = "data: [DONE]" in lines, any('"error"' in line for line in lines[-4:])
    assert (whole, broken) == ((True, False) if temperature == 0 else (False, True))
    answer = several.complete("plain", max_tokens=3)
    assert answer.status_code == 200, answer.text
    assert several.instance("plain/instance_0")["pid"] != before


def test_vectors_and_ranks_come_from_a_model_that_makes_them(several: Cluster) -> None:
    """Beside those that make text, and forked as they are; it is ready when it has made a vector."""
    body = {
        "model_name": "vectors", "model_path": "demo", "engine": "vllm",
        "args": "--runner pooling --convert embed --enforce-eager --max-model-len 512",
    }  # fmt: skip
    assert several.post("/v1/models/load", body).status_code == 202
    client = openai.OpenAI(base_url=f"{several.url}/v1", api_key="none", max_retries=0, timeout=200)
    made = client.embeddings.create(model="vectors", input=["a ship", "the sea"], encoding_format="float")
    assert [len(entry.embedding) for entry in made.data] == [128, 128]
    shown = several.status()
    started = proc.stat(shown["instances"]["vectors/instance_0"]["pid"])
    assert started is not None and started.parent in [one["pid"] for one in shown["zygote"]["processes"]]
    asked = {"model": "vectors", "query": "a ship", "documents": ["the sea", "a ship"]}
    ranked = several.post("/v1/rerank", asked).json()["results"]
    assert [entry["document"]["text"] for entry in ranked] == ["a ship", "the sea"]
    assert several.complete("vectors").status_code in (400, 404), "it makes no text"
    assert several.complete("demo").status_code == 200
    assert several.ask("DELETE", "/v1/models/vectors").status_code == 202
