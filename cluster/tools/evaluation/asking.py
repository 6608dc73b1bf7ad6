"""Has every row answered by a model, and every answer judged: a file each, which a later run goes on with."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.tools.batch import files
from cluster.tools.batch.files import Output
from cluster.tools.batch.lines import BatchRequest, Defaults, ask_of, written
from cluster.tools.batch.progress import BatchProgress
from cluster.tools.batch.run import fed, in_order
from cluster.tools.evaluation import judge
from cluster.tools.evaluation.rows import Answer, EvalRow

#: Of a model, as part of a file's name.
_NAME = re.compile(r"[^A-Za-z0-9._@-]")
_LONGEST_NAME = 80

Work = Callable[[BatchRequest], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Questions:
    """``sampling``: fields of each request. ``completions``: texts are gone on with, not put as questions in a chat."""

    rows: Sequence[EvalRow]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    completions: bool = False

    def asks(self, model: str) -> list[BatchRequest]:
        defaults = Defaults(model, self.sampling)
        return [ask_of(row.line, self._line(row), defaults) for row in self.rows]

    def _line(self, row: EvalRow) -> bytes:
        asked = {"prompt": row.question} if self.completions else {"messages": row.messages}
        return json.dumps(asked).encode()


def file_of(folder: Path, model: str, judged_by: str | None = None) -> Path:
    """Where the answers of ``model`` are kept, or what a judge says of them."""
    what = "answers" if judged_by is None else f"judged-by-{_part(judged_by)}"
    return folder / f"{what}-{_part(model)}.jsonl"


def _part(model: str) -> str:
    """Of a file's name; no two models have the same."""
    plain = _NAME.sub("_", model)[:_LONGEST_NAME]
    return plain if plain == model else f"{plain}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def judge_asks(rows: Sequence[EvalRow], answers: Sequence[Answer], model: str, seed: int) -> list[BatchRequest]:
    """For the answers that there are."""
    return [
        ask_of(row.line, json.dumps(judge.body(row, answer.text, model, seed)).encode(), Defaults(model))
        for row, answer in zip(rows, answers, strict=True) if answer.text is not None
    ]  # fmt: skip


def fits(path: Path, asks: Iterable[BatchRequest]) -> bool:
    """Whether what there is of a file answers these, as far as it goes."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as lines:
        for line, ask in zip(lines, asks, strict=False):
            if (found := written(line)) is not None and found.hash != ask.hash:
                return False
    return True


def output(path: Path, overwrite: bool) -> Output:
    """The file, in which what failed in an earlier run is asked again. Raises UsageError."""
    return Output(path, overwrite, retry=not overwrite and _has_failed(path))


def _has_failed(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as lines:
        return any(found is not None and found.failed for found in map(written, lines))
    return False


async def ask(out: Output, asks: Sequence[BatchRequest], work: Work, concurrency: int, report: BatchProgress) -> None:
    """Answers what is missing in ``out``. Raises ClusterError, UsageError, OSError."""
    numbered = ((number, b"", number) for number in range(1, len(asks) + 1))
    steps = files.steps(numbered, lambda number, _: asks[number - 1], out.name, out.kept(), out.earlier())
    await in_order(fed(steps), work, concurrency, report.take)
    out.complete()


def answers(path: Path) -> Iterator[Answer]:
    """Those in a file that is complete, in its order."""
    with path.open("rb") as lines:
        for line in lines:
            yield _answer(json.loads(line))


def _answer(data: Mapping[str, Any]) -> Answer:
    if error := data.get("error"):
        return Answer(None, str(error.get("message")))
    tokens = (data.get("usage") or {}).get("completion_tokens")
    return Answer(data.get("text") or "", tokens=tokens or 0, cut=data.get("finish_reason") == "length")
