"""A whole balancer's `/metrics` and the logs that it shows, with workers and a supervisor played by the test."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from adminfakes import StartWorker, supervisor
from lbfakes import Balanced, closed_port, instance, spec


def families(text: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for family in text_string_to_metric_families(text):
        assert family.name not in found, f"{family.name} is there twice"
        found[family.name] = family.samples
    return found


async def scrape(balancer: Balanced) -> dict[str, list[Any]]:
    async with balancer.request("GET", "/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain")
        return families(await response.text())


async def vllm_metrics(_: web.Request) -> web.StreamResponse:
    text = '# HELP vllm:running R\n# TYPE vllm:running gauge\nvllm:running{model_name="a b}c\\"d"} 3\n'
    return web.Response(text=text)


async def test_metrics_are_ours_and_every_workers(balancer: Balanced, start_worker: StartWorker) -> None:
    workers = [await start_worker(f"instance_{n}", vllm_metrics) for n in range(2)]
    balancer.push(*(worker.spec(weight=3) for worker in workers))
    async with supervisor(balancer, "instance_0", "instance_1"):
        found = await scrape(balancer)
    assert {s.labels["instance"] for s in found["vllm:running"]} == {"instance_0", "instance_1"}
    assert {s.labels["model_name"] for s in found["vllm:running"]} == {'a b}c"d'}
    assert [s.value for s in found["clusterctl_instance_weight"]] == [3, 3]
    assert [s.value for s in found["clusterctl_supervisor_up"]] == [1]
    assert [s.value for s in found["clusterctl_instances_desired"]] == [2]
    restarts = {s.labels["instance"]: s.value for s in found["clusterctl_instance_restarts"]}
    assert restarts == {"instance_0": 2, "instance_1": 2}


async def test_metrics_tell_of_stalls(balancer: Balanced) -> None:
    instances = {"instance_0": instance("instance_0", stalls=2), "instance_1": instance("instance_1")}
    async with supervisor(balancer, instances=instances):
        found = await scrape(balancer)
    stalls = {s.labels["instance"]: s.value for s in found["clusterctl_stalls"]}
    assert stalls == {"instance_0": 2, "instance_1": 0}


async def test_a_worker_that_gives_no_metrics_is_left_out(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker("instance_1", vllm_metrics)
    balancer.push(spec("instance_0", closed_port()), worker.spec())
    found = await scrape(balancer)
    assert {s.labels["instance"] for s in found["vllm:running"]} == {"instance_1"}


async def test_only_workers_that_are_there_are_asked(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker(answer=vllm_metrics)
    balancer.push(worker.spec(state="starting"))
    assert "vllm:running" not in await scrape(balancer)
    assert worker.seen == []


async def test_metrics_of_attached_backends_without_cpu_figures_are_no_error(balancer: Balanced) -> None:
    backend = instance("backend_0", managed=False, cpu_percent=None, memory_mb=None)
    async with supervisor(balancer, instances={"backend_0": backend}):
        found = await scrape(balancer)
    assert [s.value for s in found["clusterctl_instance_cpu_percent"]] == [0]


async def test_an_attached_cluster_does_not_spoil_the_exposition(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    async def another_cluster(_: web.Request) -> web.StreamResponse:
        return web.Response(text='# TYPE clusterctl_in_flight gauge\nclusterctl_in_flight{instance="instance_0"} 3\n')

    worker = await start_worker("backend_0", another_cluster)
    balancer.push(worker.spec(managed=False))
    found = await scrape(balancer)
    assert "backend_0" in {s.labels["instance"] for s in found["clusterctl_in_flight"]}


async def test_a_log_is_shown_by_its_end(balancer: Balanced) -> None:
    log = balancer.state_dir / "x.log"
    log.write_text("one\ntwo\nthree\n")
    async with supervisor(balancer, instances={"instance_0": instance(log=str(log))}):
        async with balancer.request("GET", "/v1/cluster/instances/instance_0/logs?lines=2") as response:
            assert (response.status, await response.text()) == (200, "two\nthree\n")


async def test_the_balancers_own_log_is_there_too(balancer: Balanced) -> None:
    (balancer.state_dir / "logs").mkdir()
    (balancer.state_dir / "logs" / "balancer.log").write_text("hello\n")
    async with balancer.request("GET", "/v1/cluster/instances/balancer/logs") as response:
        assert await response.text() == "hello\n"


@pytest.mark.parametrize("name", ["nobody", "..%2F..%2Fetc%2Fpasswd", "backend_0"])
async def test_a_log_that_is_not_there_is_404(balancer: Balanced, name: str) -> None:
    async with supervisor(balancer, instances={"backend_0": {**instance(), "log": None}}):
        answer = await balancer.raw(
            f"GET /v1/cluster/instances/{name}/logs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
    assert answer.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("lines", ["x", "-1", "100001", "1.5"])
async def test_a_number_of_lines_that_is_none_is_400(balancer: Balanced, lines: str) -> None:
    status, answer = await balancer.answer("GET", f"/v1/cluster/instances/balancer/logs?lines={lines}")
    assert (status, answer["error"]["param"]) == (400, "lines")
