"""The whole of it on real vLLM, three workers with the demo model, through the `openai` client."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest

import enginedeaths
import rpccalls
from chaos import kinds
from chaos.cases import TOLERANCE, judge, read
from chaos.oracle import Kind
from chaos.wire import Answer, Client
from harness import Cluster, kill, poll
from simstreams import seen
from worker.drivers import proc

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]

QUESTION = "What is clusterctl?"
BEGINNINGS = {"demo": "clusterctl puts", "pirate": "Arr, clusterctl", "poet": "One address"}


@pytest.fixture
def client(vllm: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{vllm.url}/v1", api_key="none", max_retries=0, timeout=60)


def _ask(client: openai.OpenAI, model: str, **kwargs: Any) -> Any:
    messages: Any = [{"role": "user", "content": QUESTION}]
    return client.chat.completions.create(model=model, messages=messages, temperature=0, **kwargs)


def test_base_and_adapters_answer_each_in_its_own_way(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["demo", "pirate", "poet"]
    for model, beginning in BEGINNINGS.items():
        answer = _ask(client, model)
        assert answer.model == model
        assert answer.choices[0].message.content.startswith(beginning)
        assert answer.choices[0].finish_reason == "stop"


def test_streams_say_the_same_as_plain_answers(client: openai.OpenAI) -> None:
    for model in BEGINNINGS:
        plain = _ask(client, model).choices[0].message.content
        longest = 0
        for _ in range(5):  # on a busy machine the engine puts many tokens into one event
            chunks = list(_ask(client, model, stream=True))
            assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == plain
            longest = max(longest, len(chunks))
            if longest > 5:
                break
        assert longest > 5


def test_completions_and_errors_come_through(vllm: Cluster, client: openai.OpenAI) -> None:
    text = client.completions.create(model="demo", prompt="The sky is", max_tokens=6, temperature=0).choices[0].text
    assert text.strip()
    with pytest.raises(openai.NotFoundError):
        _ask(client, "nobody")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="demo", prompt="x", max_tokens=-1)
    assert httpx.get(f"{vllm.url}/version").json()["version"].startswith("0.32")
    tokens = vllm.post("/tokenize", {"model": "demo", "prompt": "hello"}).json()["tokens"]
    assert vllm.post("/detokenize", {"model": "demo", "tokens": tokens}).json()["prompt"].endswith("hello")


def test_every_worker_takes_its_share_and_tells_its_metrics(vllm: Cluster) -> None:
    vllm.post("/v1/cluster/strategy", {"strategy": "round_robin"})
    before = {n: i["requests_total"] for n, i in vllm.status()["instances"].items()}
    for _ in range(9):
        assert vllm.complete().status_code == 200
    after = {n: i["requests_total"] for n, i in vllm.status()["instances"].items()}
    assert {n: after[n] - before[n] for n in after} == {"instance_0": 3, "instance_1": 3, "instance_2": 3}
    text = httpx.get(f"{vllm.url}/metrics").text
    for name in after:
        assert f'vllm:generation_tokens_total{{instance="{name}"' in text


def test_two_keys_see_their_own_models_and_their_own_responses(vllm: Cluster) -> None:
    secrets = {}
    try:
        for name, model in (("p", "pirate"), ("o", "poet")):
            made = vllm.run("key", "create", name, "--models", model)
            assert made.returncode == 0, made.stderr
            secrets[model] = made.stdout.strip()
        for own, other in (("pirate", "poet"), ("poet", "pirate")):
            with openai.OpenAI(base_url=f"{vllm.url}/v1", api_key=secrets[own], max_retries=0) as client:
                assert [model.id for model in client.models.list()] == [own]
                assert client.completions.create(model=own, prompt="Hello", max_tokens=2).choices[0].text
                for model in (other, "demo", "nothing"):
                    with pytest.raises(openai.NotFoundError):
                        client.completions.create(model=model, prompt="Hello", max_tokens=2)
                answer = client.responses.create(model=own, input="Hello", max_output_tokens=16)
                assert len(answer.id) == 59, "the balancer's id is the engine's"
                begun = next(iter(client.responses.create(model=own, input="Hi", max_output_tokens=16, stream=True)))
                assert begun.type == "response.created" and len(begun.response.id) == 59
        with openai.OpenAI(base_url=f"{vllm.url}/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
    finally:
        for name in ("p", "o"):
            vllm.run("key", "revoke", name)


def _running(vllm: Cluster) -> float:
    """Requests that the engines compute, by their own metrics."""
    lines = httpx.get(f"{vllm.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:num_requests_running{"))


async def test_over_grpc_text_comes_as_it_is_made_and_a_cancelled_call_frees_its_engine(vllm: Cluster) -> None:
    async with rpccalls.channel(f"127.0.0.1:{vllm.grpc_port}") as channel:
        for model, beginning in BEGINNINGS.items():
            asked = {"prompt": QUESTION, "expert_id": model, "temperature": 0.0}
            for _ in range(5):  # an API server that had no processor meanwhile says in one what has been made
                said = await rpccalls.chat(channel, timeout=60.0, **asked)
                assert "".join(text for text, _ in said).startswith(beginning)
                assert [end for _, end in said] == [False] * (len(said) - 1) + [True]
                if len(said) > 5:
                    break
            assert len(said) > 5
        calls = []
        for _ in range(20):  # on a busy machine these have ended by themselves before somebody looks
            asked = {"prompt": QUESTION, "expert_id": "demo", "temperature": 2.0, "max_tokens": 1900}
            calls += [rpccalls.call(channel, timeout=None, **asked) for _ in range(6)]
            for call in calls[-6:]:
                assert await call.read() is not grpc.aio.EOF
            if await asyncio.to_thread(_running, vllm) > 0:
                break
        else:
            raise AssertionError("the engines compute none of them")
        for call in calls:
            call.cancel()
        await asyncio.to_thread(poll, lambda: _running(vllm) == 0, 20, "they have given them up")
        assert (await asyncio.to_thread(vllm.status))["load_balancer"]["in_flight"] == 0
        ended = set(await asyncio.gather(*(call.code() for call in calls)))
        # One that the model has ended by itself says nothing.
        assert grpc.StatusCode.CANCELLED in ended and ended <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.OK}


def test_plan_counts_the_cache_as_the_engine_does(vllm: Cluster) -> None:
    """`clusterctl plan` says of the demo model, with the 1 GiB of cache that it has here, what vLLM says itself."""
    planned = json.loads(vllm.run("plan", "--memory", "24", "--cpu-kv-gib", "1", "--json").stdout)["kv"]
    vllm.wait_ready(3, 300)

    def of_all() -> list[str] | None:
        lines = httpx.get(f"{vllm.url}/metrics").text.splitlines()
        told = [line for line in lines if line.startswith("vllm:cache_config_info{")]
        return told if len(told) == 3 else None

    told = poll(of_all, 30, "all three have told their metrics")
    for line in told:
        values = dict(re.findall(r'(\w+)="([^"]*)"', line))
        assert int(values["num_gpu_blocks"]) == planned["blocks"]
        assert int(values["block_size"]) == planned["block_size"]
        assert int(values["kv_cache_size_tokens"]) == planned["tokens"]
        assert float(values["kv_cache_max_concurrency"]) == planned["requests_per_instance"]
    assert f"KV cache size: {planned['tokens']:,} tokens" in vllm.log("instance_0")


def _left_of(tree: set[int]) -> list[int]:
    return [p.pid for p in proc.processes() if p.pid in tree and p.alive]


STREAMS: list[dict[str, Any]] = [
    {"model": model, "temperature": 0, "max_tokens": 150, "min_tokens": 150, "stream": True, **more}
    for model in ("demo", "pirate")
    for more in (
        {"messages": [{"role": "user", "content": "What is clusterctl?"}]},
        {"messages": [{"role": "user", "content": "What is a worker?"}], "logprobs": True, "top_logprobs": 2},
        {"prompt": "One address for", "stop": ["no text like this one"], "stream_options": {"include_usage": True}},
        {"prompt": "A load balancer", "logprobs": 1, "return_token_ids": True},
    )
]


def _stream(vllm: Cluster, body: dict[str, Any], tokens: Callable[[], object]) -> dict[str, Any]:
    """What a client makes of one, see `simstreams.seen`; ``tokens`` is called at every event."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    with httpx.stream("POST", vllm.url + path, json=body, timeout=120) as response:
        lines = []
        for line in response.iter_lines():
            lines.append(line)
            if line:
                tokens()
    found = seen("\n".join([*lines, ""]).encode())
    assert len(found.pop("heads")) == 1
    # The numbers differ in the last digits with what else is in the batch.
    shown = [entry["token"] if isinstance(entry, dict) else entry[:1] + entry[2:3] for entry in found["logprobs"]]
    return {**found, "logprobs": shown}


def _streams(vllm: Cluster, tokens: Callable[[int], object] = lambda number: None) -> list[dict[str, Any]]:
    """``tokens`` is called with the number of the stream at every event."""
    with ThreadPoolExecutor(len(STREAMS)) as pool:
        asked = enumerate(STREAMS)
        return list(pool.map(lambda one: _stream(vllm, one[1], lambda: tokens(one[0])), asked))


def test_killed_workers_leave_no_orphan_and_come_back_and_no_stream_notices(vllm: Cluster) -> None:
    """Of one the API server is killed, which leaves its engine behind; of another the engine, which the API server
    outlives for a while. Both at once: starts take their time. Meanwhile eight greedy streams run: what comes out is
    what came out undisturbed, as far as the engine itself says the same thing twice. All have begun by then: one of
    which nothing has come is asked again once, and not after a second death."""
    before = vllm.wait_ready(3, 300)["instances"]
    undisturbed, again = _streams(vllm), _streams(vllm)
    events, under_way = Counter[int](), threading.Event()

    def begun(number: int) -> None:
        events[number] += 1
        if len(events) == len(STREAMS) and min(events.values()) >= 2:
            under_way.set()

    streaming = ThreadPoolExecutor(1).submit(_streams, vllm, begun)
    assert under_way.wait(60)
    busiest = sorted(before, key=lambda name: -vllm.instance(name)["in_flight"])[:2]
    tree: dict[str, set[int]] = {}
    for name in busiest:
        pid = before[name]["pid"]
        members = proc.sessions([pid])[pid]
        tree[name] = {p.pid for p in members}
        assert len(members) >= 3, "API server, EngineCore and Worker"
    engines = [pid for pid in tree[busiest[1]] if _name(pid).startswith("VLLM::Engine")]
    kill(before[busiest[0]]["pid"])
    kill(engines[0])
    for name in tree:
        poll(lambda name=name: vllm.instance(name)["pid"] not in (None, before[name]["pid"]), 15)  # type: ignore[misc]
        assert not _left_of(tree[name]), "nothing of it is left when it is started again"
    for _ in range(6):
        assert vllm.complete().status_code == 200, "the other serves"
    for body, got, first, second in zip(STREAMS, streaming.result(), undisturbed, again, strict=True):
        assert got in (first, second), body
    moved = re.findall(r"clusterctl_streams_moved_total{[^}]*} (\S+)", httpx.get(f"{vllm.url}/metrics").text)
    assert sum(map(float, moved)) >= 2, "those that ran on the two"
    after = vllm.wait_ready(3, 300)["instances"]
    for name in tree:
        assert (after[name]["state"], after[name]["degraded"]) == ("ready", False)
        assert after[name]["restarts"] == before[name]["restarts"] + 1
        assert after[name]["models"] == ["demo", "pirate", "poet"]


def test_streams_of_all_kinds_outlive_their_worker(vllm: Cluster) -> None:
    """Guided output, penalties, seeds, log probabilities, several choices, Messages and Responses: greedy and
    seeded ones say what they said undisturbed, samples hold what was asked of them."""
    vllm.wait_ready(3, 300)
    asked = [case for case in kinds.make("demo") if "tool" not in case.name and "thinking" not in case.name]

    async def all_at_once(strike: Callable[[], None] | None = None, after: float = 0.0) -> list[Answer]:
        clients = [Client(vllm.port, quiet=120) for _ in asked]
        running = asyncio.gather(*(client.ask(case.data) for client, case in zip(clients, asked, strict=True)))
        if strike is not None:
            await asyncio.sleep(after)
            strike()
        answers = await running
        for client in clients:
            client.close()
        return answers

    right = list(zip(*(asyncio.run(all_at_once()) for _ in range(2)), strict=True))
    seconds = max(second.ended - second.began for _, second in right)

    def replayed() -> float:
        page = httpx.get(f"{vllm.url}/metrics").text
        return sum(map(float, re.findall(r'clusterctl_streams_moved_total{[^}]*way="replay"} (\S+)', page)))

    def moved_by_a_kill() -> bool:
        """One that is in the middle of some. On a machine so busy that they are over by then it is done again."""
        moved, before = replayed(), vllm.wait_ready(3, 300)["instances"]

        def strike() -> None:
            kill(before[max(before, key=lambda name: vllm.instance(name)["in_flight"])]["pid"])

        for case, answer, undisturbed in zip(asked, asyncio.run(all_at_once(strike, seconds / 3)), right, strict=True):
            verdict = judge(case, answer, [read(case, one) for one in undisturbed], TOLERANCE["vllm"])
            assert verdict.kind is Kind.OK, (case.name, verdict.reason)
        return replayed() > moved

    poll(moved_by_a_kill, 60, "streams of a worker that was killed are made again")
    vllm.wait_ready(3, 300)


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_a_request_that_crashes_engines_costs_those_beside_it_nothing(vllm: Cluster) -> None:
    """Two of them at most, which answer 500 for a moment; the long forms are in `tests/soak/test_engine_deaths.py`."""
    vllm.wait_ready(3, 300)
    outcome = enginedeaths.poison(vllm, 6)
    assert not outcome.lost
    assert "EngineCore" not in outcome.poison


def test_scaling_to_two_and_back(vllm: Cluster) -> None:
    vllm.wait_ready(3, 300)
    gone = vllm.instance("instance_2")["pid"]
    tree = {p.pid for p in proc.sessions([gone])[gone]}
    assert vllm.run("scale", "2").returncode == 0
    assert list(vllm.status()["instances"]) == ["instance_0", "instance_1"]
    assert not _left_of(tree)
    assert vllm.complete("poet").status_code == 200
    assert vllm.post("/v1/cluster/scale", {"instances": 3}).status_code == 202
    vllm.wait_ready(3, 300)
    assert vllm.instance("instance_2")["models"] == ["demo", "pirate", "poet"]


def test_a_supervisor_that_dies_is_replaced_without_a_restart(vllm: Cluster) -> None:
    before = vllm.wait_ready(3, 300)
    os.kill(before["supervisor"]["pid"], signal.SIGKILL)
    poll(lambda: vllm.status()["supervisor"]["pid"] is None, 5)
    assert vllm.complete().status_code == 200
    began = time.monotonic()
    assert vllm.up("--instances", "3").returncode == 0
    assert time.monotonic() - began < 10
    after = vllm.wait_ready(3, 30)
    pids = {n: i["pid"] for n, i in before["instances"].items()}
    assert {n: i["pid"] for n, i in after["instances"].items()} == pids
