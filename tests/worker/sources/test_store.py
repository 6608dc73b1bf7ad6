"""What is kept of what was fetched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config.values.references import Reference, parse
from worker.sources.store import Fetched, SourceStore

REFERENCE = parse("hf://a/b")


@pytest.fixture
def store(tmp_path: Path) -> SourceStore:
    return SourceStore(tmp_path / "sources")


def put(store: SourceStore, reference: Reference = REFERENCE, revision: str = "r1", content: bytes = b"x") -> Fetched:
    with store.held(reference):
        folder = store.partial(reference, revision)
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub" / "f").write_bytes(content)
        found = store.keep(reference, revision, "adapter", {"sub/f": (len(content), "0" * 64)})
        store.use(reference, found)
    return found


def test_what_was_kept_is_found_and_read_only(store: SourceStore) -> None:
    found = put(store)
    assert store.find(REFERENCE, "adapter") == found == store.revision(REFERENCE, "r1", "adapter")
    assert store.find(REFERENCE, "model") is None and store.find(parse("hf://a/c"), "adapter") is None
    assert (Path(found.folder) / "sub/f").stat().st_mode & 0o222 == 0
    assert store.origin_of(Path(found.folder)) == "hf://a/b (r1)" and store.origin_of(store.root) is None
    assert SourceStore(store.root / "x").origin_of(Path(found.folder)) is None, "a record anywhere is no record"
    assert not list(store.root.rglob("partial-*"))


def test_wherever_the_state_lies_by_now(store: SourceStore, tmp_path: Path) -> None:
    put(store)
    moved = store.root.rename(tmp_path / "elsewhere")
    found = SourceStore(moved).find(REFERENCE, "adapter")
    assert found is not None and Path(found.folder).is_relative_to(moved)


@pytest.mark.parametrize("harm", ["gone", "short", "record", "list"])
def test_what_is_damaged_counts_as_not_there(store: SourceStore, harm: str) -> None:
    found = put(store)
    path, current = Path(found.folder, "sub/f"), store.root / REFERENCE.key / "current.json"
    path.chmod(0o600)
    if harm == "gone":
        path.unlink()
    elif harm == "short":
        path.write_bytes(b"")
    elif harm == "record":
        current.write_text("{")
    else:
        current.write_text(json.dumps([1]))
    assert store.find(REFERENCE, "adapter") is None
    assert store.find(REFERENCE, "adapter") is None and put(store) and store.find(REFERENCE, "adapter")


def test_another_revision_leaves_the_one_that_is_in_use(store: SourceStore) -> None:
    first, second = put(store), put(store, revision="r2", content=b"yy")
    assert store.find(REFERENCE, "adapter") == second and Path(first.folder, "sub/f").read_bytes() == b"x"
    assert [Path(gone).name for gone in store.sweep([REFERENCE.key])] == [Path(first.folder).parent.name]
    assert store.find(REFERENCE, "adapter") == second


def test_what_nobody_needs_goes_and_what_a_list_keeps_stays(store: SourceStore) -> None:
    put(store)
    other = parse("hf://a/other")
    listed = put(store, other)
    with store.held(other):
        store.use(other, Fetched(**{**{f: getattr(listed, f) for f in Fetched.__slots__}, "kept": "experts.yaml"}))
    with store.held(REFERENCE):
        assert not store.sweep([]), "somebody fetches it now"
    assert len(store.sweep([])) == 1
    assert store.find(REFERENCE, "adapter") is None and store.find(other, "adapter")
    assert SourceStore(store.root / "none").sweep([]) == []


def test_what_other_revisions_have_left_goes(store: SourceStore) -> None:
    with store.held(REFERENCE):
        (store.partial(REFERENCE, "r1") / "x").write_bytes(b"x")
        assert (store.partial(REFERENCE, "r1") / "x").exists()
        store.partial(REFERENCE, "r2")
    assert len(list(store.root.rglob("partial-*"))) == 1
