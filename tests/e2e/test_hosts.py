"""Three hosts, each with a network, processes and a home of its own, Ray on each, and one cluster over them: what ends
or is cut off there, under greedy streams whose every answer is compared. One node cannot show what is lost with a host,
or is thought to be. `tests/soak/test_hosts.py` is the long form."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from manyhosts import faults, namespaces
from manyhosts.fixtures import WORKERS, hosts_cluster, hosts_site, hosts_traffic  # noqa: F401
from manyhosts.site import HostsCluster, Site
from manyhosts.traffic import STREAMS, Traffic, none_lost
from worker.adapters.content import content_hash
from worker.demo import adapter_path

pytestmark = [pytest.mark.processes, pytest.mark.alone, pytest.mark.timeout(300), namespaces.NEEDED]


def test_workers_are_spread_over_the_hosts(site: Site, cluster: HostsCluster) -> None:
    assert [len(cluster.running_on(host)) for host in site.hosts] == [2, 2, 2]


def test_an_adapter_is_brought_to_each_host(site: Site, cluster: HostsCluster, tmp_path: Path) -> None:
    source = shutil.copytree(adapter_path("pirate"), tmp_path / "mine")
    with (source / "adapter_config.json").open("a") as file:
        file.write(" ")  # content of its own
    answer = cluster.post("/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": str(source)})
    assert answer.status_code == 200, answer.text
    for host in site.hosts:
        [there] = (host.folder / "home").rglob(f"adapters/{content_hash(source)}")
        assert content_hash(there) == there.name


def test_the_host_with_the_head_is_cut_off_and_joined(site: Site, cluster: HostsCluster, traffic: Traffic) -> None:
    with traffic.running(STREAMS) as outcomes:
        assert faults.cut_and_joined(site, cluster, site.third, WORKERS) <= 6.0
    none_lost(outcomes)


def test_a_host_is_killed_and_booted(site: Site, cluster: HostsCluster, traffic: Traffic) -> None:
    with traffic.running(STREAMS) as outcomes:
        assert faults.killed_and_booted(site, cluster, site.second, WORKERS) <= 6.0
    none_lost(outcomes)


def test_each_part_is_killed(site: Site, cluster: HostsCluster, traffic: Traffic) -> None:
    with traffic.running(STREAMS) as outcomes:
        for fault in faults.KILLED.values():
            fault(site, cluster)
            site.whole(cluster, WORKERS)
    none_lost(outcomes)


def test_the_host_of_the_supervisor_is_killed_and_another_goes_on(site: Site, cluster: HostsCluster) -> None:
    faults.moved_to_another(site, cluster, site.second, WORKERS)


def test_down_from_another_host_leaves_nothing(site: Site, cluster: HostsCluster) -> None:
    assert cluster.host is not site.third
    faults.brought_down(site, cluster, site.third)
