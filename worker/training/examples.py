"""Chats as tokens, and which of these are learned: those of the answers, the tokens that end them included.

Where the chat template marks its answers (``{% generation %}``) these marks decide. Else an answer is what the
conversation up to it has more than the question for it: the template is rendered for both. A template that leaves out
of earlier answers what it shows of the last one (reasoning) gives an example an answer, each as it is asked for later.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from worker.training.data import Dialogue, Message, RowError

_MARKS = re.compile(r"\{%-?\s*generation\b")


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """``learned`` has a byte a token, 1 for those that are learned."""

    tokens: array[int]
    learned: bytes

    @property
    def answer_tokens(self) -> int:
        return sum(self.learned)


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """``truncated`` were longer than allowed, of ``dropped`` nothing to learn was left; both count examples."""

    examples: Sequence[TrainingExample]
    rows: int
    truncated: int
    dropped: int


def prepare(rows: Iterable[Dialogue], tokenizer: Any, max_length: int) -> ExampleSet:
    """``max_length`` in tokens: what comes after is cut off. Raises RowError."""
    kept: list[TrainingExample] = []
    count = truncated = dropped = 0
    for count, row in enumerate(rows, 1):
        try:
            made = list(_examples(row, tokenizer))
        except RowError as error:
            raise RowError(f"row {count}: {error}") from None
        for each in made:
            truncated += len(each.tokens) > max_length
            short = TrainingExample(each.tokens[:max_length], each.learned[:max_length])
            if any(short.learned[1:]):  # the first token is nobody's to predict
                kept.append(short)
            else:
                dropped += 1
    return ExampleSet(kept, count, truncated, dropped)


def _examples(row: Dialogue, tokenizer: Any) -> Iterator[TrainingExample]:
    if not tokenizer.chat_template:
        if not row.plain:
            raise RowError("the model has no chat template: chats need one, only prompt and completion do not")
        yield _plain(row, tokenizer)
        return
    try:
        everything = {at for at, each in enumerate(row.messages) if each["role"] == "assistant"}
        if _MARKS.search(str(tokenizer.chat_template)) and row.learned == everything:
            yield _marked(row, tokenizer)
        else:
            yield from _compared(row, tokenizer)
    except RowError:
        raise
    except Exception as error:  # a template is a program of somebody else's
        raise RowError(f"the chat template refuses it: {str(error)[:200]}") from None


def _plain(row: Dialogue, tokenizer: Any) -> TrainingExample:
    prompt, completion = (str(each["content"]) for each in row.messages)
    begin = "" if tokenizer.bos_token is None else tokenizer.bos_token
    text = f"{begin}{prompt}{completion}{tokenizer.eos_token or ''}"
    return _tokenized(text, [(len(begin) + len(prompt), len(text))], tokenizer)


def _marked(row: Dialogue, tokenizer: Any) -> TrainingExample:
    found = tokenizer.apply_chat_template(
        list(row.messages), tools=_tools(row), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return TrainingExample(array("i", found["input_ids"]), bytes(found["assistant_masks"]))


def _compared(row: Dialogue, tokenizer: Any) -> Iterator[TrainingExample]:
    whole = _rendered(row.messages, row, tokenizer)
    spans = []
    for at in sorted(row.learned):
        text, begin = _answer(row, at, tokenizer)
        if whole.startswith(text):
            spans.append((begin, len(text)))
        else:
            yield _tokenized(text, [(begin, len(text))], tokenizer)
    if spans:
        yield _tokenized(whole, spans, tokenizer)


def _answer(row: Dialogue, at: int, tokenizer: Any) -> tuple[str, int]:
    """The conversation up to the answer at ``at``, and where in it that begins."""
    text = _rendered(row.messages[: at + 1], row, tokenizer)
    asked = _rendered(row.messages[:at], row, tokenizer, add_generation_prompt=True)
    return text, sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(text, asked, strict=False)))


def _rendered(messages: Sequence[Message], row: Dialogue, tokenizer: Any, **more: Any) -> str:
    return str(tokenizer.apply_chat_template(list(messages), tools=_tools(row), tokenize=False, **more))


def _tools(row: Dialogue) -> list[Any] | None:
    return None if row.tools is None else list(row.tools)


def _tokenized(text: str, spans: Sequence[tuple[int, int]], tokenizer: Any) -> TrainingExample:
    """``spans``: from and to which character it is learned, in order. A token that begins before is not."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    learned, rest = bytearray(len(found["input_ids"])), list(reversed(spans))
    for at, (begin, _) in enumerate(found["offset_mapping"]):
        while rest and begin >= rest[-1][1]:
            rest.pop()
        learned[at] = bool(rest) and begin >= rest[-1][0]
    return TrainingExample(array("i", found["input_ids"]), bytes(learned))
