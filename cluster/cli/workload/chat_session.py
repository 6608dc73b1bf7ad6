"""A chat on a terminal or in a pipe: turns, commands, and what is shown of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import click

from cluster.client import ClusterError
from cluster.tools.chat.conversation import Conversation
from cluster.tools.chat.openai_client import StreamedAnswer
from config.disk.files import replacing
from config.errors import nearest
from config.text import printable

COMMANDS = {
    "/model": "NAME  ask NAME from now on (Tab completes); without NAME: which one it is",
    "/models": "  what there is to ask",
    "/system": "TEXT  what the model is told first; without TEXT: what it is; - for nothing",
    "/retry": "  put the last question again; its answer is forgotten",
    "/reset": "  forget what was said",
    "/save": "FILE  write the conversation, as JSON if FILE ends in .json",
    "/help": "  this",
    "/quit": "  leave (or Ctrl-D)",
}
_HELP = """A line that ends in \\ goes on on the next; \"\"\" begins and ends a text of several lines.
Ctrl-C stops an answer and keeps what came. // begins a line that begins with /."""


class Asks(Protocol):
    def chat(self, body: dict[str, Any]) -> contextlib.AbstractContextManager[StreamedAnswer]: ...


class Leave(Exception):
    """The person wants to go."""


@dataclass
class Session:
    """``out`` gets answers, ``err`` all else. ``live``: a person is there, so that Ctrl-C stops the answer alone.
    ``terminal``: answers go to one. ``sampling``: further fields of each request."""

    asks: Asks
    models: Callable[[], Sequence[Mapping[str, Any]]]
    talk: Conversation
    out: IO[str]
    err: IO[str]
    live: bool = False
    terminal: bool = False
    stats: bool = False
    colour: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)
    _saved: set[Path] = field(default_factory=set)

    def turn(self, question: str) -> bool:
        """Puts ``question`` and shows the answer; says whether all of it came. Of an answer that was stopped what
        came is kept, of one that failed nothing: it can be put again."""
        body = {"model": self.talk.model, "messages": self.talk.ask(question), **self.sampling}
        parts: list[str] = []
        answer: StreamedAnswer | None = None
        try:
            with self.asks.chat(body) as answer:
                self._show(answer, parts)
        except ClusterError as error:
            self._line_end(parts)
            kept = "; what came is not kept, /retry puts the question again" if parts else ""
            long = "; /reset forgets what was said" if error.status == 400 and self.talk.turns else ""
            self.say(f"error: {error}{kept if self.live else ''}{long if self.live else ''}", fg="red")
            return False
        except KeyboardInterrupt:
            self._line_end(parts)
            self.talk.answered("".join(parts))
            if not self.live:
                raise
            self.say("stopped; what came is kept" if parts else "stopped before an answer came", dim=True)
            return True
        self._line_end(parts)
        self.talk.answered("".join(parts))
        if self.stats and answer is not None:
            self.say(f"{self.talk.model} · {answer.reading.stats(time.monotonic()).words()}", dim=True)
        return True

    def _show(self, answer: StreamedAnswer, parts: list[str]) -> None:
        thinking = False
        for piece in answer:
            if piece.reasoning and self.terminal:  # no part of the answer, and nothing for a pipe
                self._write(click.style(self._clean(piece.reasoning), dim=True))
                thinking = True
            if piece.text:
                if thinking:
                    self._write("\n")
                    thinking = False
                parts.append(piece.text)
                self._write(self._clean(piece.text))

    def _line_end(self, parts: list[str]) -> None:
        if parts and not parts[-1].endswith("\n"):
            self._write("\n")

    def _clean(self, text: str) -> str:
        """On a terminal text alone; in a pipe what the model wrote."""
        return printable(text.replace("\r", ""), lines=True) if self.terminal else text

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()

    def say(self, text: str, **style: Any) -> None:
        """To the person, not to who reads the answers."""
        text = printable(text, lines=True)
        self.err.write((click.style(text, **style) if self.colour else text) + "\n")
        self.err.flush()

    def take(self, text: str) -> bool:
        """A line or text that was typed: a command or a question; says whether it could be done. Raises Leave."""
        stripped = text.strip()
        if not stripped:
            return True
        if stripped.startswith("//"):
            return self.turn(text.replace("//", "/", 1))
        if not stripped.startswith("/"):
            return self.turn(text)
        name, _, rest = stripped.partition(" ")
        if name not in COMMANDS:
            self.say(f"no command {name}{nearest(name, COMMANDS)}; /help lists them, // begins a text with /")
            return False
        done: bool = getattr(self, f"_do_{name[1:]}")(rest.strip())
        return done

    def _do_model(self, name: str) -> bool:
        if not name:
            self.say(self.talk.model)
            return True
        try:
            known = [card["id"] for card in self.models()]
        except ClusterError as error:
            self.say(f"error: {error}", fg="red")
            return False
        if name not in known and name.partition(":")[2] not in known:
            self.say(f"no model {name!r}{nearest(name, known)}; /models lists them")
            return False
        self.talk.model = name
        self.say(f"asking {name} from now on", dim=True)
        return True

    def _do_models(self, _: str) -> bool:
        try:
            cards = self.models()
        except ClusterError as error:
            self.say(f"error: {error}", fg="red")
            return False
        for card in cards:
            mark = "*" if card["id"] == self.talk.model else " "
            parent = f"  (adapter of {card['parent']})" if card.get("parent") else ""
            self.say(printable(f"{mark} {card['id']}{parent}"))
        return True

    def _do_system(self, text: str) -> bool:
        if not text:
            self.say(self.talk.system or "nothing is said first")
            return True
        self.talk.system = "" if text == "-" else text
        self.say("noted" if self.talk.system else "nothing is said first any more", dim=True)
        return True

    def _do_retry(self, _: str) -> bool:
        if question := self.talk.again():
            return self.turn(question)
        self.say("nothing has been asked yet")
        return False

    def _do_reset(self, _: str) -> bool:
        self.talk.reset()
        self.say("forgotten" + ("; what is said first stays" if self.talk.system else ""), dim=True)
        return True

    def _do_save(self, name: str) -> bool:
        if not name:
            self.say("/save FILE: a file is needed")
            return False
        try:
            path = Path(name).expanduser().absolute()
            if path.exists() and path not in self._saved:
                self.say(f"{name} exists already; another name, please")
                return False
            with replacing(path) as file:
                file.write(self.talk.saved(path.suffix == ".json").encode(errors="replace"))
        except (OSError, RuntimeError, ValueError) as error:  # ~nobody, a NUL: the conversation must outlive a typo
            self.say(f"{name}: {getattr(error, 'strerror', None) or error}", fg="red")
            return False
        self._saved.add(path)
        self.say(f"{len(self.talk.turns)} turns in {name}", dim=True)
        return True

    def _do_help(self, _: str) -> bool:
        for name, meaning in COMMANDS.items():
            usage, _, words = meaning.partition("  ")
            self.say(f"{name + ' ' + usage:<14} {words}")
        self.say(_HELP)
        return True

    def _do_quit(self, _: str) -> bool:
        raise Leave


def messages(read: Callable[[str], str], prompt: Callable[[], str]) -> Iterator[str]:
    """What is typed, put together where it goes over several lines. ``read`` is given the prompt, raises EOFError at
    the end, and KeyboardInterrupt, which is the caller's."""
    while True:
        try:
            line = read(prompt())
        except EOFError:
            return
        yield _rest(line, read)


def _rest(line: str, read: Callable[[str], str]) -> str:
    lines: list[str] = []
    with contextlib.suppress(EOFError):
        if line.lstrip().startswith('"""'):
            line = line.lstrip()[3:]
            while not line.rstrip().endswith('"""'):
                lines.append(line)
                line = read("... ")
            return "\n".join([*lines, line.rstrip()[:-3]]).strip("\n")
        while line.endswith("\\"):
            lines.append(line[:-1])
            line = read("... ")
        lines.append(line)
    return "\n".join(lines).strip("\n")
