"""Every example of docs/api.md, in its order, on a cluster of simulated workers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Cluster, environment, free_port
from lb.admin.openapi import PATHS
from worker.demo import adapter_path

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()

#: Language and text of each block.
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

#: An answer that is an error is a failure; a stream has no end, so it is left after a second.
_CURL = """
curl() {
  case "$*" in
    *event-stream*|*follow=1*|*/live*) command curl -sS --fail-with-body --max-time 1 "$@" || [ $? -eq 28 ];;
    *) command curl -sS --fail-with-body "$@";;
  esac
  echo
}
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("docs"), free_port())
    joining = ("--join-listen", f"127.0.0.1:{free_port()}")
    result = cluster.up("--engine", "sim", "--instances", "2", "--max-instances", "3", *joining)
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(2)
    yield cluster
    cluster.close()


@pytest.mark.parametrize("block", range(len(BLOCKS)), ids=lambda number: f"{number}-{BLOCKS[number][0]}")
def test_an_example_does_what_it_says(shared: Cluster, block: int) -> None:
    language, text = BLOCKS[block]
    for name in ("pirate", "poet"):
        text = text.replace(f"/srv/adapters/{name}", str(adapter_path(name)))
    text = text.replace("/srv/merged", str(shared.root / "merged")).replace("http://127.0.0.1:8000", shared.url)
    text = text.replace("ClusterClient()", f"ClusterClient({shared.url!r})")
    shell = ["bash", "-euc", _CURL + text]
    command = shell if language == "bash" else [sys.executable, "-c", text]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=environment(CLUSTERCTL_ADMIN_KEY="any"), check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip() or "print" not in text


def test_every_path_is_in_an_example_or_a_method_of_one() -> None:
    shown = "".join(text for _, text in BLOCKS)
    by_method = {
        "/v1/cluster/apply": "cluster.apply(", "/v1/lora_adapters": "cluster.adapters(",
        "/v1/lora_adapters/{name}/rollback": "cluster.rollback_adapter(",
        "/v1/cluster/balancers": "cluster.joined_balancers(",
        "/v1/cluster/balancers/{name}": "cluster.evict_balancer(",
        "/v1/cluster/join_tokens/{name}": "cluster.revoke_join_token(",
    }  # fmt: skip
    public = {"/health", "/metrics", "/v1/models"}
    shown = re.sub(r"/(instance_0|balancer|sailor|small|team-a|merge-1)\b", "/{name}", shown)
    for path in set(PATHS) - public:
        assert by_method.get(path, path) in shown, path
