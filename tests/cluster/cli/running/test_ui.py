"""`ui`: a link that is printed, or opened without telling everybody on the machine."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from click.testing import CliRunner

from cluster.cli.running import ui


class Cluster:
    """One that gives out a link."""

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def ui_link(self) -> dict[str, Any]:
        return {"code": "c0de", "expires_in": 60}


@pytest.fixture(autouse=True)
def _cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ui, "client", lambda _: Cluster())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def run(*args: str) -> str:
    result = CliRunner().invoke(ui.ui_command, args, standalone_mode=False, catch_exceptions=False)
    assert result.return_value == 0
    return result.output


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1"])
def test_the_link_is_printed(url: str) -> None:
    assert run("--url", url) == "http://h:1/ui/#code=c0de\n"


def test_a_browser_is_opened_by_a_file_that_only_we_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Browser:
        def open(self, target: str) -> bool:
            opened.append(target)
            return True

    monkeypatch.setattr("webbrowser.get", Browser)
    for _ in range(2):
        assert run("--open", "--url", "http://h:1") == ""
    assert "c0de" not in opened[1]
    file = Path(unquote(urlsplit(opened[1]).path))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert '"http://h:1/ui/#code=c0de"' in file.read_text()


def test_without_a_browser_the_link_is_printed() -> None:
    with pytest.MonkeyPatch.context() as patch:
        import webbrowser

        def none() -> None:
            raise webbrowser.Error("could not locate runnable browser")

        patch.setattr("webbrowser.get", none)
        assert run("--open", "--url", "http://h:1") == "http://h:1/ui/#code=c0de\n"
