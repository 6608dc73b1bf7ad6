"""What the tests of a cluster over hosts share, short and long: three hosts, a cluster over them, and its traffic."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from manyhosts.site import HostsCluster, Site
from manyhosts.traffic import Traffic

WORKERS = 6


@pytest.fixture(scope="module", name="site")
def hosts_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("hosts"))
    yield made
    made.close()


@pytest.fixture(scope="module", name="cluster")
def hosts_cluster(site: Site) -> HostsCluster:
    return site.simulated(WORKERS)


@pytest.fixture(scope="module", name="traffic")
def hosts_traffic(cluster: HostsCluster) -> Traffic:
    return Traffic(cluster.host, cluster.port)
