"""Answers that are asked for while something happens to a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from harness import Cluster, poll


@contextlib.contextmanager
def asked(cluster: Cluster, many: int = 12) -> Iterator[None]:
    """While so many greedy answers of two seconds are on their way: each has to come, and to be the right one."""
    body = {"max_tokens": 200, "temperature": 0, "ignore_eos": True}
    prompts = [f"tell me of {number}" for number in range(many)]

    def ask(prompt: str) -> str:
        answer = cluster.complete(prompt=prompt, **body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])

    with ThreadPoolExecutor(many) as pool:
        expected = list(pool.map(ask, prompts))
        under_way = [pool.submit(ask, prompt) for prompt in prompts]
        poll(lambda: cluster.status()["load_balancer"]["in_flight"] or None, 5, "requests")
        yield
        assert [one.result(60) for one in under_way] == expected
