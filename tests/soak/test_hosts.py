"""The long form of `tests/e2e/test_hosts.py`: each part killed ten times, scaling over hosts, a state that is brought
to another one, and real engines. What it saw is on its standard output (`-s`)."""

from __future__ import annotations

import time

import pytest

from manyhosts import faults, namespaces
from manyhosts.fixtures import WORKERS, hosts_cluster, hosts_site, hosts_traffic  # noqa: F401
from manyhosts.site import HostsCluster, Site
from manyhosts.traffic import STREAMS, Traffic, none_lost
from worker.demo import model_path

pytestmark = [
    pytest.mark.processes, pytest.mark.alone, pytest.mark.soak, pytest.mark.timeout(1800), namespaces.NEEDED,
]  # fmt: skip

TIMES = 10


def test_workers_come_and_go_with_the_load(site: Site, cluster: HostsCluster, traffic: Traffic) -> None:
    print(f"\n1, 12 and 2 workers: {none_lost(faults.scaled(site, cluster, traffic))}")
    assert cluster.run("scale", str(WORKERS)).returncode == 0
    site.whole(cluster, WORKERS)


@pytest.mark.parametrize("what", faults.KILLED)
def test_it_is_killed_ten_times(what: str, site: Site, cluster: HostsCluster, traffic: Traffic) -> None:
    with traffic.running(STREAMS) as outcomes:
        for _ in range(TIMES):
            faults.KILLED[what](site, cluster)
            site.whole(cluster, WORKERS)
    print(f"\n{what}, {TIMES} times: {none_lost(outcomes)}")


@pytest.mark.parametrize("how", ["cut_and_joined", "killed_and_booted"])
def test_hosts_are_lost_in_turn(how: str, site: Site, cluster: HostsCluster, traffic: Traffic) -> None:
    with traffic.running(STREAMS) as outcomes:
        missed = [getattr(faults, how)(site, cluster, host, WORKERS) for host in (site.third, site.second) * 2]
    print(f"\n{how}: {none_lost(outcomes)}, missed after {', '.join(f'{each:.1f}' for each in missed)} s")
    assert max(missed) <= 6.0


def test_the_state_is_brought_to_another_host(site: Site, cluster: HostsCluster) -> None:
    began = time.monotonic()
    faults.moved_by_export(site, cluster, site.second, WORKERS)
    print(f"\nbrought to another host, whole after {time.monotonic() - began:.1f} s")
    faults.brought_down(site, cluster, site.third)


def test_a_host_with_a_real_engine_is_killed(tmp_path_factory: pytest.TempPathFactory) -> None:
    site = Site(tmp_path_factory.mktemp("engines"))
    try:
        cluster = site.begin("--model", str(model_path()))
        result = cluster.up("--instances", "2", timeout=600, CLUSTERCTL_SERVED_NAMES="demo")
        assert result.returncode == 0, result.stderr
        site.whole(cluster, 2, 400)
        lost = next(host for host in (site.second, site.third) if cluster.running_on(host))
        traffic = Traffic(cluster.host, cluster.port, "vllm")
        with traffic.running(8) as outcomes:
            missed = faults.killed_and_booted(site, cluster, lost, 2, 400)
        print(f"\nvLLM: {none_lost(outcomes)}, missed after {missed:.1f} s")
        faults.brought_down(site, cluster, site.third)
    finally:
        site.close()
