from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from _pytest.nodeid import NodeId

import rayhead
import zygotes
from harness import Cluster, DriverUnderTest, free_port
from oneworker import one_worker
from worker.demo import adapters, model_path

#: What is started once for tests of several files, which are a group named after the first of these that they use.
SHARED = ("vllm", "vllm_zygote", "page", "ray_head", "shared_sim", "paced_sim")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side (`--dist loadgroup`) a process runs all tests that share a cluster, and any one that has its own.
    Of groups of one size those with a real engine begin: what takes a minute to start is not left for the end."""
    if config.getoption("loadgroup", False):
        items.sort(key=lambda item: item.get_closest_marker("vllm") is None)
        for item in items:
            if group := _shared(item):
                _keep_together(item, group)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Side by side, what a group has started ends with its last test: three engines that wait for nothing, or a browser
    that shows an idle cluster, would take their part of a processor to the end of the run."""
    if not item.config.getoption("loadgroup", False) or not isinstance(item, pytest.Function):
        return
    if (group := _shared(item)) and (nextitem is None or _shared(nextitem) != group):
        for name in SHARED:
            for fixture in item.session._fixturemanager.getfixturedefs(name, item) or ():
                fixture.finish(item._request)  # type: ignore[arg-type]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests with the mark ``drivers``, or whose file has it, run once for each that it names. With ``soak`` or
    ``alone`` it says for which of them the test has that mark, and with ``reason`` why it is not for others."""
    mark = metafunc.definition.get_closest_marker("drivers")
    if mark is not None and "driver" in metafunc.fixturenames:
        cases = [
            pytest.param(name, marks=[getattr(pytest.mark, more) for more, of in mark.kwargs.items() if of == name])
            for name in mark.args
        ]
        metafunc.parametrize("driver", cases, indirect=True, scope="module")


def _keep_together(item: pytest.Item, group: str) -> None:
    """xdist knows a group by the end of an id. It writes that itself, for the mark ``xdist_group``, but (3.8) where
    pytest 9.2 does not keep the id any more: all groups fall apart, and nothing says so."""
    item._id = NodeId.parse(f"{item.nodeid}@{group}")
    assert item.nodeid.endswith(f"@{group}")


def _shared(item: pytest.Item) -> str:
    """What ``item`` shares with others: one of `SHARED`, or the file, where it has fixtures for all its tests."""
    if not isinstance(item, pytest.Function):
        return ""
    if hasattr(item, "callspec") and item.callspec.params.get("driver") == "ray":
        return "ray_head"
    used = item._fixtureinfo.name2fixturedefs
    for name in SHARED:
        if name in used and used[name][-1].scope == "session":
            return name
    ours = (made[-1] for name, made in used.items() if name != "driver" and made[-1].baseid.startswith("tests/e2e"))
    return item.path.stem if any(fixture.scope == "module" for fixture in ours) else ""


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three real vLLM workers with the demo model and its adapters, for the whole session: they take a minute."""
    cluster = Cluster(tmp_path_factory.mktemp("vllm"), free_port(), grpc_port=free_port())
    given = ("--instances", "3", "--max-instances", "3", "--grpc-port", str(cluster.grpc_port))
    try:
        result = cluster.up(*given, timeout=400)
        assert result.returncode == 0, result.stderr
        cluster.wait_ready(3, 300)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rayhead.Head]:
    """A Ray of one node, for all clusters with workers there."""
    with rayhead.running(tmp_path_factory.mktemp("ray")) as made:
        yield made


@pytest.fixture(scope="module")
def driver(request: pytest.FixtureRequest) -> DriverUnderTest:
    """What starts the workers of the clusters of a test."""
    if getattr(request, "param", "local") == "local":
        return DriverUnderTest()
    head: rayhead.Head = request.getfixturevalue("ray_head")
    return head.driver


@pytest.fixture(scope="session")
def demo_adapters() -> dict[str, str]:
    return {name: str(path) for name, path in adapters().items()}


@pytest.fixture(scope="session")
def vllm_zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What forks real vLLM workers without a cluster: it takes the imports of one, and they a second each. That those
    which are started plainly answer alike is in `test_vllm_startup.py`."""
    with zygotes.of_vllm(tmp_path_factory.mktemp("zygote")) as path:
        yield path


@pytest.fixture(scope="session")
def vllm_worker_url(
    tmp_path_factory: pytest.TempPathFactory, demo_adapters: dict[str, str], vllm_zygote: Path
) -> Iterator[str]:
    """One real vLLM worker without a cluster, as our own engine starts it; its key is `harness.WORKER_KEY`."""
    with one_worker(tmp_path_factory.mktemp("worker"), model_path(), demo_adapters, zygote=vllm_zygote) as url:
        yield url


@pytest.fixture
def make_cluster(tmp_path: Path, driver: DriverUnderTest) -> Iterator[Callable[[], Cluster]]:
    """Makes clusters that are not started yet; each is ended, and checked for leftovers, after the test."""
    made: list[Cluster] = []

    def make() -> Cluster:
        made.append(Cluster(tmp_path / f"cluster{len(made)}", free_port(), driver=driver))
        made[-1].root.mkdir()
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def cluster(make_cluster: Callable[[], Cluster]) -> Cluster:
    """One that is not started yet."""
    return make_cluster()


@pytest.fixture
def sim(cluster: Cluster) -> Cluster:
    """Three simulated workers, all ready."""
    return _three_workers(cluster)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, driver: DriverUnderTest) -> Iterator[Cluster]:
    """As `sim`, for all tests of a file that leave three workers ready, whichever processes these are by then."""
    cluster = Cluster(tmp_path_factory.mktemp("three"), free_port(), driver=driver)
    try:
        yield _three_workers(cluster)
    finally:
        cluster.close()


def _three_workers(cluster: Cluster) -> Cluster:
    result = cluster.up("--engine", "sim", "--instances", "3", "--", "--ttft-ms", "1", "--itl-ms", "1")
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(3)
    return cluster


@pytest.fixture(scope="session")
def shared_sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two simulated workers, at most three, for tests that change nothing for good: what they set they set back, and
    both workers are ready when they end."""
    with _two_workers(tmp_path_factory.mktemp("shared"), 1) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def paced_sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """As `shared_sim`, but first and further tokens take 20 ms each: one sees answers come, or measures them."""
    with _two_workers(tmp_path_factory.mktemp("paced"), 20) as cluster:
        yield cluster


@contextmanager
def _two_workers(root: Path, token_ms: int) -> Iterator[Cluster]:
    cluster = Cluster(root, free_port())
    pace = ("--ttft-ms", str(token_ms), "--itl-ms", str(token_ms))
    try:
        result = cluster.up("--engine", "sim", "--instances", "2", "--max-instances", "3", "--", *pace)
        assert result.returncode == 0, result.stderr
        cluster.wait_ready(2)
        yield cluster
    finally:
        cluster.close()
