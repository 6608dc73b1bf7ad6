"""Settings, port, state directory, and what `up` would do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.tools.doctor import setup
from cluster.tools.doctor.facts import CertificateFacts, MachineFacts, NvmlFacts, Port, State
from cluster.tools.doctor.finding import Finding
from doctorfacts import H200, facts, plan

HERE = Path("/state")


def _wrong(found: MachineFacts) -> list[Finding]:
    return [finding for finding in setup.findings(found) if finding.level != "ok"]


def _access(**settings: Any) -> Finding:
    (found,) = (finding for finding in setup.findings(facts(plan=plan(**settings))) if finding.check == "access")
    return found


@pytest.mark.parametrize(("days", "level", "words"), [
    (90, "ok", "for a.example and ::1, and good for 90 days"), (13, "warning", "good for 13 days"),
    (-1, "problem", "has expired"),
])  # fmt: skip
def test_a_certificate_that_should_have_been_renewed_is_told_of(days: int, level: str, words: str) -> None:
    now = facts().clock.now
    found = setup.certificate(CertificateFacts(("a.example", "::1"), now + days * 86400), now)
    assert found.level == level and words in found.text


def test_a_certificate_that_cannot_be_served_is_a_problem() -> None:
    (found,) = _wrong(facts(certificate=CertificateFacts(error="--tls-key k: not the key of c")))
    assert (found.check, found.level, found.text) == ("tls", "problem", "--tls-key k: not the key of c")


@pytest.mark.parametrize(("settings", "words"), [
    ({"host": "0.0.0.0"}, "0.0.0.0 is reached from other machines"), ({"host": "::"}, "no admin key is set"),
    ({"host": "10.0.0.7"}, "10.0.0.7"), ({"host": "[fe80::1]"}, "fe80::1"), ({"host": "gpu.example"}, "gpu.example"),
    ({"trusted_proxies": "127.0.0.1"}, "trusted_proxies tell of a proxy"),
    ({"allowed_hosts": "api.example", "trusted_proxies": "::1"}, "trusted_proxies and allowed_hosts"),
])  # fmt: skip
def test_an_address_for_others_without_a_key_is_warned_of(settings: dict[str, Any], words: str) -> None:
    found = _access(**settings)
    assert found.level == "warning" and words in found.text and "set CLUSTERCTL_ADMIN_KEY" in found.remedy
    keyed = _access(**settings, admin_key="secret")
    assert keyed.level == "ok" and "secret" not in keyed.text


def test_where_nobody_is_known_by_the_connection_a_token_is_needed() -> None:
    (found,) = setup.exposure(plan().settings, False)
    assert found.level == "warning" and "admin.token" in found.remedy
    assert [f.level for f in setup.exposure(plan(admin_key="secret").settings, False)] == ["ok"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"])
def test_this_machine_alone_needs_no_key(host: str) -> None:
    assert _access(host=host).level == "ok"


def _up(found: MachineFacts) -> str:
    return setup.up(found).text


def test_nothing_is_wrong_where_nothing_is_wrong() -> None:
    assert _wrong(facts()) == []


@pytest.mark.parametrize(
    ("changes", "level", "text", "remedy"),
    [
        ({"port": Port("127.0.0.1", 8000, "Address already in use", ((7, "nginx"),))}, "problem",
         "127.0.0.1:8000: Address already in use by pid 7 (nginx)", "another --port 8001"),
        ({"port": Port("::", 8000, "Address already in use")}, "problem", "in use", "ss -ltnp 'sport = :8000'"),
        ({"port": Port("10.0.0.1", 80, "Cannot assign requested address")}, "problem", "Cannot assign", "--host"),
        ({"state": State(HERE, error="/state/state.db: not a readable state file")}, "problem", "not a readable",
         "another --state-dir"),
        ({"state": State(HERE, 2, 2, survivors={"instance_0": (4, 5), "lb-0": (6,)})}, "warning",
         "instance_0 and lb-0 (3 processes) of a cluster without supervisor", "clusterctl down --state-dir /state"),
        ({"others": (State(Path("/other"), 2, 2, survivors={"instance_0": (4,)}),)}, "warning",
         "instance_0 (1 process) of a cluster without supervisor run on /other", "down --state-dir /other"),
        ({"orphans": ((8, "VLLM::EngineCore"), (9, "VLLM::Worker"))}, "warning",
         "VLLM::EngineCore (8) and VLLM::Worker (9) outlived the worker", "kill -9 8 9"),
    ],
)  # fmt: skip
def test_what_is_in_the_way(changes: dict[str, Any], level: str, text: str, remedy: str) -> None:
    (found,) = _wrong(facts(**changes))
    assert found.level == level and text in found.text and remedy in found.remedy


def test_orphans_of_a_recorded_worker_are_told_once() -> None:
    state = State(HERE, 2, 2, survivors={"instance_0": (8, 9)})
    assert [f.check for f in _wrong(facts(state=state, orphans=((8, "VLLM::EngineCore"),)))] == ["leftovers"]


def test_a_cluster_that_runs_is_no_problem() -> None:
    running = State(HERE, None, 2, supervisor=77, survivors={"instance_0": (4,), "lb-0": (5,)})
    taken = Port("127.0.0.1", 8000, "Address already in use", ((5, "python"),))
    assert _wrong(facts(state=running, port=taken, others=(replace(running, folder=Path("/b")),))) == []
    being_started = Port("127.0.0.1", 8000, "Address already in use", ((99, "python"),), frozenset({77}))
    assert _wrong(facts(state=running, port=being_started)) == []


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (State(HERE, None, 2), "none yet, a new cluster"),
        (State(HERE, 1, 2), "readable, version 1; the next start makes it 2 and keeps a copy"),
        (State(HERE, 2, 2), "readable, version 2; up goes on from there"),
    ],
)
def test_a_state_that_can_be_used(state: State, text: str) -> None:
    (found,) = [f for f in setup.findings(facts(state=state)) if f.check == "state"]
    assert found.level == "ok" and found.text == f"/state: {text}"


def test_a_port_of_somebody_else_is_one_even_while_a_cluster_runs() -> None:
    running = State(HERE, None, 2, supervisor=77, survivors={"lb-0": (5,)})
    (found,) = _wrong(facts(state=running, port=Port("127.0.0.1", 9000, "Address already in use", ((6, "nginx"),))))
    assert found.check == "port"


def test_wrong_settings_end_there() -> None:
    nothing = {"settings": None, "plan": None, "port": None, "state": None, "disk": None}
    found = _wrong(replace(facts(), config_error="c.yaml, line 3: unknown setting 'prot'", **nothing))
    assert [f.check for f in found] == ["settings", "up"]
    assert found[0].text == "c.yaml, line 3: unknown setting 'prot'"


def test_what_up_refuses_is_a_problem() -> None:
    found = setup.up(replace(facts(), plan=None, plan_error="--model /m: no such file or folder"))
    assert (found.level, found.text) == ("problem", "would start nothing: --model /m: no such file or folder")


def test_what_up_would_do_on_a_processor() -> None:
    text = _up(facts(plan=plan(instances=2)))
    for line in (
        "start 2 workers of vllm with demo from ", "as no --model is given", "load adapters pirate and poet; up to 4",
        "serve it in float32", "use no GPU (there is none) and bind them to cores 0,1 and 2,3",
        "take about 3.5 GiB of memory each, 1 GiB of it KV cache",
        "fork workers from a process that has imported the engine once (--zygote off starts them plainly)",
        "listen on 127.0.0.1:8000 with 1 balancer process and one that waits, strategy auto",
        "scale between 1 and 6 workers: 90 % of 24.0 GiB, 3.5 GiB each", "keep state and logs in ",
    ):  # fmt: skip
        assert line in text
    assert "1 cores are too few to bind 2 workers to" in _up(facts(plan=plan(instances=2, cores=1)))
    asked = "scale between 1 and 7 workers: --instances asks for more than the 6 that are taken to fit"
    assert asked in _up(facts(plan=plan(instances=7)))
    idle = facts(plan=plan(), gpus=NvmlFacts((H200,), "580"))
    assert "use no GPU (vLLM's CPU build is installed, or none is visible)" in _up(idle)


def test_what_up_would_do_on_gpus() -> None:
    made = plan(gpus=4, instances=2, tensor_parallel_size=2, model="org/model", lb_processes=2, lb_standby=False,
                backend=["http://10.0.0.9:8000"])  # fmt: skip
    text = _up(facts(plan=made))
    for line in (
        "start 2 workers of vllm with org/model\n", "load no adapter; room for 4 of rank 16",
        "pin them to GPU 0+1 and GPU 2+3, as there are 4 usable GPUs", "let each take 92% of its GPU's memory",
        "with 2 balancer processes, strategy", "scale between 1 and 2 workers: 4 GPUs, 2 a worker",
        "balance http://10.0.0.9:8000 as well",
    ):  # fmt: skip
        assert line in text
    shared = _up(facts(plan=plan(gpus=1, instances=2, instances_per_gpu=2, model="org/model", max_instances=2)))
    assert "let each take 45% of its GPU's memory, as 2 share one" in shared and "--max-instances says so" in shared
    told = _up(facts(plan=plan(gpus=1, model="org/model", engine_args=["--gpu-memory-utilization", "0.5"])))
    assert "let each take 50% of its GPU's memory, as --gpu-memory-utilization says" in told
    told = _up(facts(plan=plan(gpus=1, instances=2, instances_per_gpu=2, max_gpu_memory="80%", model="org/model")))
    assert "let each take 40% of its GPU's memory, of the 80% that max_gpu_memory allows" in told


def test_what_up_would_do_with_the_simulated_engine() -> None:
    assert "use no GPU: the simulated engine has no model" in _up(facts(plan=plan(engine="sim", instances=9)))


def test_an_engine_without_adapters_or_a_cache_of_its_own_is_told_so() -> None:
    (said,) = (finding.text for finding in setup.findings(facts(plan=plan(engine="mlx"))) if finding.check == "up")
    assert "load no adapter: engine mlx takes no adapters\n" in said and "KV cache" not in said
