"""What befalls hosts, and what runs on them."""

from __future__ import annotations

from collections.abc import Callable

from chaos.load import Outcome
from harness import poll
from manyhosts.fencing import Fencing
from manyhosts.namespaces import Host
from manyhosts.site import HostsCluster, Site, cut_off, missed_after
from manyhosts.traffic import Traffic


def cut_and_joined(site: Site, cluster: HostsCluster, host: Host, workers: int) -> float:
    """Off until others serve in place of what it had. Seconds until it was missed."""
    fencing = Fencing(site, cluster, host)
    with cut_off(host):
        missed = missed_after(cluster, host, lambda: None)
        cluster.wait_ready(workers, 60)
        assert not cluster.running_on(host)
        answered = fencing.settled()
    fencing.ended(answered, 30)
    site.whole(cluster, workers)
    return missed


def killed_and_booted(site: Site, cluster: HostsCluster, host: Host, workers: int, patience: float = 60.0) -> float:
    """Off until others serve in place of what it had. Seconds until it was missed."""
    missed = missed_after(cluster, host, host.kill)
    cluster.wait_ready(workers, patience)
    site.boot(host)
    site.whole(cluster, workers)
    return missed


def moved_to_another(site: Site, cluster: HostsCluster, host: Host, workers: int) -> None:
    """The host of supervisor and balancer is gone; they begin on ``host``, with the same state, and find the rest."""
    lost = cluster.host
    before = {name: place for name, place in cluster.places().items() if place[0] != lost.address}
    assert before
    lost.kill()
    cluster.host = host
    result = cluster.up()
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(workers, 60)
    site.boot(lost)
    site.whole(cluster, workers)
    assert before.items() <= cluster.places().items(), "workers elsewhere go on"


def scaled(site: Site, cluster: HostsCluster, traffic: Traffic) -> list[Outcome]:
    """From one worker to twelve and to two, as the load wants it."""
    assert cluster.run("scale", "1").returncode == 0
    site.whole(cluster, 1)
    _apply(cluster, autoscale="on", autoscale_down_after=300.0)
    with traffic.running(50) as many:
        site.whole(cluster, 12)
    assert [len(cluster.running_on(host)) for host in site.hosts] == [4, 4, 4]
    _apply(cluster, autoscale_down_after=1.0)
    with traffic.running(4) as few:
        site.whole(cluster, 2, 120)
    _apply(cluster, autoscale="off")
    return [*many, *few]


def _apply(cluster: HostsCluster, **settings: object) -> None:
    answer = cluster.post("/v1/cluster/apply", {"settings": settings})
    assert answer.status_code == 202, answer.text


def moved_by_export(site: Site, cluster: HostsCluster, host: Host, workers: int) -> None:
    """As `moved_to_another`, where of the state only what `state export` wrote is left: workers begin anew."""
    lost, export = cluster.host, cluster.root / "export.tar"
    result = cluster.run("state", "export", str(export), "--state-dir", str(cluster.state_dir))
    assert result.returncode == 0, result.stderr
    lost.kill()
    cluster.host, cluster.root = host, cluster.root / host.address
    cluster.root.mkdir()
    result = cluster.run("state", "import", str(export), "--state-dir", str(cluster.state_dir))
    assert result.returncode == 0, result.stderr
    result = cluster.up()
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(workers, 60)
    site.boot(lost)
    site.whole(cluster, workers)


def brought_down(site: Site, cluster: HostsCluster, host: Host) -> None:
    """By a command on ``host``, which has nothing but the URL and the key. Nothing is left anywhere."""
    result = cluster.run_on(host, "down")
    assert result.returncode == 0 and result.stdout == "down\n", result
    poll(lambda: not site.left(), 10, f"nothing is left: {site.left()}")


def _supervisor(site: Site, cluster: HostsCluster) -> None:
    before = cluster.places()
    pid = cluster.status()["supervisor"]["pid"]
    cluster.host.run("kill", "-9", str(pid))
    result = cluster.up()
    assert result.returncode == 0, result.stderr
    assert cluster.places() == before, "workers go on"


def _killed(words: str, where: Callable[[Site], Host]) -> Callable[[Site, HostsCluster], None]:
    """The process with such a command line there; the workers go on, and somebody starts another."""

    def strike(site: Site, cluster: HostsCluster) -> None:
        before, host = cluster.places(), where(site)
        victims = {one.outer for one in host.processes(words)}
        host.strike(words)
        poll(lambda: {one.outer for one in host.processes(words)} - victims, 60, f"another {words}")
        site.whole(cluster, len(before))
        assert cluster.places() == before, "workers go on"

    return strike


KILLED: dict[str, Callable[[Site, HostsCluster], None]] = {
    "supervisor": _supervisor,
    "agent": _killed("worker.agent.run", lambda site: site.third),
    "actor": _killed("ray::NodeActor", lambda site: site.third),
    "raylet": _killed("raylet/raylet", lambda site: site.third),
    "head": _killed("gcs/gcs_server", lambda site: site.head),
}
