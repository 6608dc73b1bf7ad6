"""The adapters that a node keeps: whole ones only, within a bound, and none is lost that a worker holds."""

from __future__ import annotations

import errno
import shutil
import stat
from pathlib import Path

import pytest

from fakes import Clock
from worker.adapters.content import FILES, content_hash
from worker.agent.cache import AdapterCache
from worker.demo import adapter_path
from worker.drivers.remote.offers import AdapterOffer

_GIB = 1024**3
_STARTS = ("a" * 32, "b" * 32)


class Node:
    """``kept`` is made anew by `restart`, as by an agent that comes after another. ``free``: bytes of its disk."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.free, self.living = folder / "node", Clock(), 100 * _GIB, {*_STARTS}
        self.sources = folder
        self.restart()

    def restart(self) -> None:
        self.kept = AdapterCache(self.folder, lambda _: self.free, self.clock)

    def source(self, number: int = 0) -> Path:
        """An adapter, with other content for each ``number``."""
        folder = self.sources / f"source{number}"
        if not folder.exists():
            shutil.copytree(adapter_path("pirate"), folder)
            with (folder / FILES[0]).open("a") as file:
                file.write(" " * number)
        return folder

    def offer(self, number: int = 0, start: str = _STARTS[0], held: tuple[str, ...] = (), most: int = _GIB) -> str:
        """Brings it there, if it is not, and says where it is."""
        self.clock.advance(1)
        source, content = self.source(number), self.content(number)
        files = {name: (source / name).stat().st_size for name in FILES}
        offer = AdapterOffer(start, content, files, held, most)
        answer = self.kept.offer(offer, self.living)
        for name, arrived in answer.arrived.items():
            self.kept.append(content, name, arrived, (source / name).read_bytes()[arrived:])
        if answer.folder is None:
            assert self.kept.finish(content)
            answer = self.kept.offer(offer, self.living)
        assert answer.folder is not None and content_hash(Path(answer.folder)) == content
        return answer.folder

    def content(self, number: int) -> str:
        return content_hash(self.source(number))

    def there(self) -> set[int]:
        names = {path.name for path in self.folder.iterdir()}
        return {number for number in range(9) if self.content(number) in names}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_what_has_arrived_is_whole_and_read_only_and_is_found_by_the_next_agent(node: Node) -> None:
    folder = Path(node.offer())
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}
    node.restart()
    node.kept.append = None  # type: ignore[method-assign, assignment]  # nothing is sent again
    assert node.offer() == str(folder)


def test_a_damaged_one_is_brought_anew(node: Node) -> None:
    folder = Path(node.offer())
    (folder / FILES[1]).chmod(0o600)
    (folder / FILES[1]).write_bytes(b"damaged")
    node.restart()
    assert node.offer() == str(folder)


def test_one_that_somebody_deleted_is_brought_anew(node: Node) -> None:
    folder = Path(node.offer())
    shutil.rmtree(folder)
    assert node.offer() == str(folder)


def test_other_content_than_was_offered_is_not_kept(node: Node) -> None:
    source, content = node.source(), "0" * 64
    files = {name: (source / name).stat().st_size for name in FILES}
    node.kept.offer(AdapterOffer(_STARTS[0], content, files, (), _GIB), node.living)
    for name in FILES:
        node.kept.append(content, name, 0, (source / name).read_bytes())
    with pytest.raises(ValueError, match="other content"):
        node.kept.finish(content)
    assert not [path for path in node.folder.iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("name", "offset", "data"),
    [(FILES[0], 1, b"x"), (FILES[0], 0, b"x" * 4096), ("other", 0, b"x"), ("../run/x", 0, b"x")],
)
def test_only_the_next_bytes_of_what_was_offered_are_taken(node: Node, name: str, offset: int, data: bytes) -> None:
    content = "0" * 64
    files = {FILES[0]: 100, FILES[1]: 100}
    node.kept.offer(AdapterOffer(_STARTS[0], content, files, (), _GIB), node.living)
    with pytest.raises(ValueError):
        node.kept.append(content, name, offset, data)
    assert not node.kept.finish(content)


@pytest.mark.parametrize(
    "files", [{FILES[0]: 10}, {FILES[0]: 1, FILES[1]: 2, "tokenizer.json": 3}, {FILES[0]: 1, FILES[1]: 5 * _GIB}]
)
def test_what_is_no_adapter_is_not_taken(node: Node, files: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        node.kept.offer(AdapterOffer(_STARTS[0], "0" * 64, files, (), _GIB), node.living)


def test_the_least_recently_used_goes_and_nothing_that_a_living_worker_holds(node: Node) -> None:
    most = 3 * 1024**2  # each of these counts for one MiB
    for number in range(3):
        node.offer(number, held=tuple(node.content(one) for one in range(number) if one), most=most)
    node.offer(0, _STARTS[1], most=most)
    with pytest.raises(OSError) as caught:  # the first worker holds 1 and 2, the second 0
        node.offer(3, held=(node.content(1), node.content(2)), most=most)
    assert caught.value.errno == errno.ENOSPC and node.there() == {0, 1, 2}
    node.offer(3, held=(node.content(2),), most=most)
    assert node.there() == {0, 2, 3}
    node.living = {_STARTS[0]}
    node.offer(4, held=(node.content(2), node.content(3)), most=most)
    assert node.there() == {2, 3, 4}


def test_what_workers_hold_is_known_to_the_next_agent(node: Node) -> None:
    node.offer(0)
    node.restart()
    with pytest.raises(OSError):
        node.offer(1, _STARTS[1], most=1024**2)
    node.living = {_STARTS[1]}
    node.offer(1, _STARTS[1], most=1024**2)
    assert node.there() == {1}


def test_a_disk_that_is_nearly_full_takes_nothing_more(node: Node) -> None:
    node.free = 1024**2
    with pytest.raises(OSError) as caught:
        node.offer(0)
    assert caught.value.errno == errno.ENOSPC


def test_what_had_not_arrived_when_an_agent_ended_is_gone(node: Node) -> None:
    files = {FILES[0]: 100, FILES[1]: 100}
    node.kept.offer(AdapterOffer(_STARTS[0], "0" * 64, files, (), _GIB), node.living)
    node.kept.append("0" * 64, FILES[0], 0, b"x")
    node.restart()
    assert not [path for path in node.folder.iterdir() if path.is_dir()]
    with pytest.raises(ValueError):
        node.kept.append("0" * 64, FILES[0], 1, b"x")
