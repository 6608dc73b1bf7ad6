"""A state goes to another machine whole or not at all, and brings nothing that it does not name."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.adapters.registry import Adapter, Version
from cluster.storage import snapshot_file as state_file
from cluster.storage import transfer
from cluster.storage.store import Store
from cluster.storage.transfer import Contents, Incoming
from config.errors import UsageError
from config.paths import StateDir
from config.settings import Settings
from worker.adapters.content import CONFIG, WEIGHTS, content_hash


def _state(folder: Path) -> StateDir:
    state = StateDir(folder)
    state.create()
    return state


def _weights(content: bytes, dtype: str = "U8") -> bytes:
    """A safetensors file with one tensor of so many bytes."""
    count = len(content) // (2 if dtype == "BF16" else 1)
    header = json.dumps({"x": {"dtype": dtype, "shape": [count], "data_offsets": [0, len(content)]}}).encode()
    return len(header).to_bytes(8, "little") + header + content


def _adapter(state: StateDir, name: str, *weights: bytes) -> Adapter:
    """One whose versions have these weights; the content lies in ``state``."""
    versions = []
    for number, content in enumerate(weights, 1):
        folder = state.adapters / "new"
        folder.mkdir()
        (folder / CONFIG).write_text('{"r": 8}')
        (folder / WEIGHTS).write_bytes(_weights(content))
        digest = content_hash(folder)
        folder.rename(state.adapters / digest)
        path = str(state.adapters / digest)
        versions.append(Version(number, digest, path, 8, ("q_proj",), None, "/home/me/it", len(content), 1.5))
    return Adapter(name, len(versions), tuple(versions), description="ünïcode", pinned=True)


def _full(folder: Path) -> tuple[StateDir, Contents]:
    state = _state(folder)
    adapters = (_adapter(state, "poet", b"one", b"two" * 5000), _adapter(state, "lawyer", b""))
    alias = {"sides": {"poet@1": 90.0, "poet@2": 10.0}, "shadow": False}
    route = {"rules": [{"model": "poet", "keywords": ["诗"]}], "default": "base"}
    names: dict[str, list[Any]] = {"canary": [alias, None, None], "gone": [None, route, route]}
    return state, Contents(3, {"instance_1": 7}, "random", adapters, names=names)


def _exported(found: Contents) -> bytes:
    out = io.BytesIO()
    transfer.write(found, out)
    return out.getvalue()


async def _brought_in(state: StateDir, data: bytes) -> Contents:
    incoming = Incoming(io.BytesIO(data), state)
    incoming.take_in()
    incoming.close()
    store = await Store.open(state.database)
    await transfer.bring_in(store, incoming.contents)
    await store.close()
    with state_file.copy(state.database) as db:
        return transfer.contents(db)


async def test_what_was_exported_means_the_same_where_it_is_imported(tmp_path: Path) -> None:
    _, found = _full(tmp_path / "here")
    there = _state(tmp_path / "there")
    result = await _brought_in(there, _exported(found))
    assert result.means() == found.means() and not transfer.damaged(result)
    assert all(Path(v.path).parent == there.adapters for a in result.adapters for v in a.versions)
    assert len(list(there.adapters.iterdir())) == 3, "nothing is left beside them"
    assert _exported(result) == _exported(found)


async def test_a_state_is_described_with_its_models_and_without_names_that_are_gone(tmp_path: Path) -> None:
    """Models stay where they are; who reads what is exported has to know of them."""
    state, found = _full(tmp_path)
    store = await Store.open(state.database)
    names = {"model_names": found.names, "models": {"small": {"path": "/m"}, "large": {"path": "/l"}}}
    await store.replace_all(found.adapters, [], **names)
    await store.close()
    with state_file.copy(state.database) as db:
        read = transfer.contents(db)
    said = list(transfer.words(read))
    assert said[-3:] == [
        "models: large, small", "routes and aliases, changed at run time: canary",
        "routes and aliases, deleted at run time: gone",
    ]  # fmt: skip
    assert not (await _brought_in(_state(tmp_path / "other"), _exported(read))).models


async def test_an_import_replaces_adapters_and_leaves_the_numbers_of_the_state(tmp_path: Path) -> None:
    _, found = _full(tmp_path / "here")
    there = _state(tmp_path / "there")
    store = await Store.open(there.database)
    await store.next_number("incarnations")
    await store.save_adapters([_adapter(there, "old", b"x")])
    await store.close()
    result = await _brought_in(there, _exported(found))
    assert [a.name for a in result.adapters] == ["poet", "lawyer"]
    store = await Store.open(there.database)
    assert await store.next_number("incarnations") == 2
    await store.close()


def test_files_that_changed_are_not_exported(tmp_path: Path) -> None:
    _, found = _full(tmp_path / "here")
    weights = Path(found.adapters[0].current.path) / WEIGHTS
    weights.write_bytes(b"other")
    with pytest.raises(UsageError, match=r"adapter poet version 2: .* has not the content"):
        _exported(found)
    weights.unlink()
    assert len(transfer.damaged(found)) == 1


def _rewritten(data: bytes, change: Callable[[tarfile.TarInfo, bytes], list[tuple[tarfile.TarInfo, bytes]]]) -> bytes:
    """The same tar with every member as ``change`` makes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            for info, content in change(member, file.read()):
                info.size = len(content)
                new.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _manifest(**values: Any) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        def one(info: tarfile.TarInfo, content: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
            if info.name == "manifest.json":
                content = json.dumps({**json.loads(content), **values}).encode()
            return [(info, content)]

        return _rewritten(data, one)

    return change


def _with(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[bytes], bytes]:
    """One member more at the end."""

    def change(data: bytes) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=out, mode="w") as new:
            for member in old:
                new.addfile(member, old.extractfile(member))
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            new.addfile(info)
        return out.getvalue()

    return change


def _other_weights(data: bytes) -> bytes:
    return _rewritten(data, lambda i, c: [(i, c[:-1] + b"!" if i.name.endswith(WEIGHTS) and c else c)])


def _without_last(data: bytes) -> bytes:
    last = tarfile.open(fileobj=io.BytesIO(data)).getnames()[-1]  # noqa: SIM115
    return _rewritten(data, lambda i, c: [] if i.name == last else [(i, c)])


_BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a path out of it": (_with("../../evil"), "does not belong there"),
    "an absolute path": (_with("/evil"), "does not belong there"),
    "a path behind an adapter": (_with(f"adapters/{'0' * 64}/../../evil"), "does not belong there"),
    "an adapter that it does not name": (_with(f"adapters/{'0' * 64}/{CONFIG}"), "does not belong there"),
    "a symbolic link": (_with("adapters", tarfile.SYMTYPE, "/etc"), "no plain file"),
    "a hard link": (_with("x", tarfile.LNKTYPE, "manifest.json"), "no plain file"),
    "a device": (_with("x", tarfile.CHRTYPE), "no plain file"),
    "a member twice": (lambda d: _rewritten(d, lambda i, c: [(i, c), (i, c)]), "does not belong there"),
    "other weights": (_other_weights, "has not the content"),
    "a file less": (_without_last, "are not all in it"),
    "a later version": (_manifest(version=2), "of version 2, this clusterctl reads version 1"),
    "another format": (_manifest(format="x"), "is not of 'clusterctl state'"),
    "a field more": (_manifest(more=1), "more: "),
    "a strategy that is none": (_manifest(strategy="best"), "strategy: "),
    "a number that is none": (_manifest(instances="3"), "instances: "),
    "an adapter's name that is a path": (
        _manifest(adapters=[{"name": "..", "active": 1, "description": "", "auto_load": True, "pinned": False,
                             "versions": [{"number": 1, "hash": "0" * 64, "rank": 1, "target_modules": [],
                                           "base_model": None, "source": "", "size": 0, "created": 0.0}]}]),
        "is no adapter name",
    ),
    "an alias that is none": (_manifest(names={"x": [{"sides": {}}, None, None]}), "is no route and no alias"),
    "a change that is none": (_manifest(names={"x": [None, None]}), "names.x: "),
    "a key of agents that is none": (_manifest(agent_key="x"), "no key of agents"),
    "a name that is none": (_manifest(names={"../x": [None, None, None]}), "is no name"),
    "cut short": (lambda d: d[:3000], "cut short"),
    "no tar": (lambda d: b"something else " * 100, "cut short"),
    "nothing": (lambda d: b"", "not imported"),
    "no manifest": (lambda d: _rewritten(d, lambda i, c: [] if i.name == "manifest.json" else [(i, c)]), "first"),
}  # fmt: skip


@pytest.mark.parametrize("what", _BAD)
def test_what_is_no_whole_export_leaves_nothing(tmp_path: Path, what: str) -> None:
    _, found = _full(tmp_path / "here")
    change, words = _BAD[what]
    there = _state(tmp_path / "deep" / "there")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError) as error:
        Incoming(io.BytesIO(change(_exported(found))), there)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_that_are_no_numbers_are_not_imported(tmp_path: Path) -> None:
    """A worker would load them at its next start, and nobody would look at them again."""
    state, found = _full(tmp_path / "here")
    folder = Path(found.adapters[0].current.path)
    (folder / WEIGHTS).write_bytes(_weights(b"\xc0\x7f", "BF16"))
    digest = content_hash(folder)
    folder.rename(state.adapters / digest)
    version = replace(found.adapters[0].current, hash=digest, path=str(state.adapters / digest))
    found = replace(found, adapters=(replace(found.adapters[0], versions=(version,)),))
    there = _state(tmp_path / "there")
    with pytest.raises(UsageError, match=r"not imported: adapters/.* tensor 'x' holds a value that is NaN"):
        Incoming(io.BytesIO(_exported(found)), there)
    assert list(there.adapters.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_what_describes_a_member_is_not_read_whole_whatever_its_size(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 1 << 33

    class Source(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1) -> bytes:
            Source.most = max(Source.most, size or 0)
            return super().read(size)

    with pytest.raises(UsageError, match="cut short"):
        Incoming(Source(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)), _state(tmp_path / "there"))
    assert Source.most < 1 << 20


def test_a_manifest_of_more_than_any_state_has_is_not_parsed(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        data = b'{"format": [' + b"[]," * 1_000_000 + b"1]}"
        info = tarfile.TarInfo("manifest.json")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    out.seek(0)
    with pytest.raises(UsageError, match="more than the 1000000 values"):
        Incoming(out, _state(tmp_path / "there"))


def test_compressed_ones_are_read_too(tmp_path: Path) -> None:
    import gzip

    _, found = _full(tmp_path / "here")
    incoming = Incoming(io.BytesIO(gzip.compress(_exported(found))), _state(tmp_path / "there"))
    assert incoming.contents.means() == found.means()
    incoming.close()


def test_settings_that_say_something_themselves_win() -> None:
    imported = {"instances": 5, "strategy": "random", "weights": {}}
    taken = transfer.with_imported(Settings(), imported)
    assert (taken.instances, taken.strategy) == (5, "random")
    given = transfer.with_imported(Settings(instances=2, strategy="weighted"), imported)
    assert (given.instances, given.strategy) == (2, "weighted")
    assert transfer.with_imported(Settings(), None) == Settings()
