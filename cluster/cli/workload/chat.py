"""`chat`: talk to a model or an adapter of the cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import click

from cluster.cli.common import Finite, asking_client, asking_key, url_option, verification
from cluster.cli.workload.chat_session import COMMANDS, Leave, Session, messages
from cluster.cli.workload.models import chosen
from cluster.client import ClusterError
from cluster.tools.chat.conversation import Conversation
from cluster.tools.chat.openai_client import OpenAIClient
from config.errors import UsageError
from config.sources.commands import cluster_url
from config.text import printable


@click.command("chat")
@click.argument("question", nargs=-1)
@click.option("--model", "-m", help="The model or adapter to ask (default: the base model).")
@click.option("--system", default="", help="What the model is told first.")
@click.option("--max-tokens", type=click.IntRange(1), help="The longest answer, in tokens.")
@click.option("--temperature", type=Finite(0), help="0 gives the same answer each time.")
@click.option("--seed", type=int, help="Makes a sample repeatable.")
@click.option(
    "--stats/--no-stats", default=None, help="A line about time and tokens after each answer (default: on a terminal)."
)
@url_option
def chat_command(
    question: tuple[str, ...], model: str | None, system: str, url: str | None, stats: bool | None, **sampling: Any
) -> int:
    """Talk to a model: /help says how. With a QUESTION, answer it and end; a - in it stands for all of standard input.

    In a pipe each line is a turn of one conversation."""
    where = url or cluster_url()
    asking = OpenAIClient(where, asking_key(), verify=verification(where))
    with asking_client(url) as cluster, asking as asks:
        live = not question and sys.stdin.isatty()
        session = Session(
            asks, cluster.models, Conversation(chosen(cluster, model), system), sys.stdout, sys.stderr, live=live,
            terminal=sys.stdout.isatty(), colour=sys.stderr.isatty(),
            stats=sys.stderr.isatty() if stats is None else stats,
            sampling={name: value for name, value in sampling.items() if value is not None},
        )
        try:
            if question:
                return 0 if session.turn(_filled(question)) else 1
            return _talk(session) if live else _listen(session, sys.stdin.buffer)
        except Leave:
            return 0


def _filled(question: tuple[str, ...]) -> str:
    """The words of the command line, with standard input, a paragraph of its own, where one is ``-``."""
    parts: list[str] = []
    for word in question:
        if word == "-":
            parts += ["\n\n", sys.stdin.buffer.read().decode("utf-8-sig", errors="replace").strip("\n"), "\n\n"]
        else:
            parts += [" " if parts and not parts[-1].endswith("\n") else "", _utf8(word)]
    text = "".join(parts).strip()
    if not text:
        raise UsageError("there is no question", 2)
    return text


def _utf8(text: str) -> str:
    """Bytes that are no UTF-8 come in as lone surrogates, which no JSON can hold."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _listen(session: Session, source: IO[bytes]) -> int:
    """One turn a line; 1 if any could not be done."""

    mark = b"\xef\xbb\xbf"  # some editors begin a file with it

    def read(_: str) -> str:
        nonlocal mark
        if not (line := source.readline()):
            raise EOFError
        line, mark = line.removeprefix(mark), b""
        return line.decode(errors="replace").rstrip("\r\n")

    done = True
    for text in messages(read, lambda: ""):
        done = session.take(text) and done
    return 0 if done else 1


def _talk(session: Session) -> int:
    read = _line_editor(session) if session.terminal else _plain
    session.say(f"{printable(session.talk.model)}; /help lists what can be typed", dim=True)
    while True:
        try:
            for text in messages(read, lambda: f"{printable(session.talk.model)}> "):
                session.take(text)
            session.say("")
            return 0
        except KeyboardInterrupt:
            session.say("\nCtrl-D leaves", dim=True)
        except UnicodeDecodeError:
            session.say("that was not UTF-8 and is not sent", fg="red")


def _plain(prompt: str) -> str:
    """For answers that go to a file: the prompt must not be among them."""
    sys.stderr.write(prompt)
    sys.stderr.flush()
    if not (line := sys.stdin.readline()):
        raise EOFError
    return _utf8(line.rstrip("\n"))


def _line_editor(session: Session) -> Callable[[str], str]:
    """Reads with history and completion, in memory alone."""
    try:
        import readline
    except ImportError:
        return lambda prompt: _utf8(input(prompt))
    found: list[str] = []

    def complete(text: str, state: int) -> str | None:
        if state == 0:
            found[:] = completions(readline.get_line_buffer(), text, lambda: _names(session))
        return found[state] if state < len(found) else None

    readline.set_completer_delims(" \t\n")
    readline.set_completer(complete)
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    return lambda prompt: _utf8(input(prompt))


def _names(session: Session) -> list[str]:
    try:
        return [str(card["id"]) for card in session.models()]
    except ClusterError:
        return []


def completions(line: str, word: str, names: Callable[[], list[str]]) -> list[str]:
    """What ``word``, the last of ``line``, can become."""
    command, space, _ = line.lstrip().partition(" ")
    if not space:
        return [f"{name} " for name in COMMANDS if name.startswith(word)] if word.startswith("/") else []
    if command == "/model":
        return [name for name in names() if name.startswith(word)]
    if command == "/save":
        path = Path(word).expanduser()
        folder, start = (path, "") if word.endswith("/") else (path.parent, path.name)
        try:
            near = sorted(entry for entry in folder.iterdir() if entry.name.startswith(start))
        except OSError:
            return []
        return [f"{entry}/" if entry.is_dir() else str(entry) for entry in near]
    return []
