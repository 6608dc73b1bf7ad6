"""A list of servers in a file."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from cluster.discovery import file_source
from cluster.discovery.file_source import FileSource
from cluster.discovery.listing import SourceFailed


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_source, "_EVERY_S", 0.01)


def replace(path: Path, text: str) -> None:
    """As whoever knows how to."""
    new = path.with_name("new")
    new.write_text(text)
    new.rename(path)


async def failure(source: FileSource) -> str:
    with pytest.raises(SourceFailed) as error:
        await source.listed(0.0)
    return str(error.value)


async def test_a_change_is_told_as_soon_as_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "servers.yaml"
    path.write_text("- http://a:1\n- targets: [b:2]\n")
    source = FileSource(path)
    assert (await source.listed(60.0)).urls == ("http://a:1", "http://b:2"), "at first at once"
    waiting = asyncio.create_task(source.listed(60.0))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    replace(path, "[c:3]")
    assert (await asyncio.wait_for(waiting, 5)).urls == ("http://c:3",)


async def test_the_same_is_told_again_when_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    path.write_text('["a:1"]')
    source = FileSource(path)
    first = await source.listed(0.0)
    assert await source.listed(0.01) is first


async def test_a_file_that_is_not_good_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    source = FileSource(path)
    assert "No such file" in await failure(source)
    for text, why in [
        ("", "Expecting value"), ('["a:1"', "delimiter"), ('{"a": 1}', "a list of servers is needed"),
        ("[" * 10**5, "nested too deeply"),
        (json.dumps(["a:1"] * 10**5), "more than the 262144 bytes"),
    ]:  # fmt: skip
        replace(path, text)
        assert why in await failure(source)
    replace(path, '["a:1"]')
    assert (await source.listed(0.0)).urls == ("http://a:1",)
    path.unlink()
    assert "No such file" in await failure(source)


async def test_a_line_of_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "servers.yaml"
    path.write_text("- a:1\n- [\n")
    assert (await failure(FileSource(path))).startswith("line 3: ")


async def test_a_file_that_others_can_change_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    path.write_text('["a:1"]')
    path.chmod(0o666)
    source = FileSource(path)
    assert "everybody may write" in await failure(source)
    path.chmod(0o644)
    assert (await source.listed(0.0)).urls == ("http://a:1",), "nothing of it has changed but who may"


async def test_a_pipe_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "servers.json")
    assert "it is no regular file" in await asyncio.wait_for(failure(FileSource(tmp_path / "servers.json")), 5)
