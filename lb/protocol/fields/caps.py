"""The most that one request may ask for, whatever its engine would do. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lb.protocol.facts import refused
from lb.protocol.fields import lax

#: Arrays and objects inside each other. No API has a tenth of it.
MOST_DEPTH = 200

#: Which cap is for which field of a request.
NUMBERS: Mapping[str, str] = {
    "n": "n", "best_of": "best_of",
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens"), "tokens"),
    **dict.fromkeys(("logprobs", "top_logprobs", "prompt_logprobs"), "logprobs"),
}  # fmt: skip
#: Fields that hold several prompts, where they are lists of texts or of lists.
LISTS = frozenset({
    "prompt", "prompt_embeds", "input", "messages", "documents", "queries", "text_1", "text_2", "data_1", "data_2",
})  # fmt: skip
TEMPLATE, TEMPLATE_FIELDS = "chat_template", "chat_template_kwargs"
#: Those that few requests have; and with the number of log probabilities, where that is capped.
_RARE = frozenset({b"n", b"best_of", TEMPLATE.encode(), TEMPLATE_FIELDS.encode()})
_SUSPICIOUS = _RARE, _RARE | {name.encode() for name, cap in NUMBERS.items() if cap == "logprobs"}
FIELDS = frozenset({*NUMBERS, *LISTS, TEMPLATE, TEMPLATE_FIELDS})


@dataclass(frozen=True, slots=True)
class Caps:
    """``n``, ``best_of``: answers; ``tokens``: of one answer; ``prompts``: in one request; ``logprobs``: of one token;
    ``depth``: arrays and objects inside each other and the body, at least 16; the others: whether the field may be
    there. None: as many as the engine takes. OpenAI's own: 128, 20, what the model has, 2048, 20."""

    n: int = 128
    best_of: int = 128
    tokens: int | None = None
    prompts: int = 2048
    logprobs: int | None = None
    depth: int = MOST_DEPTH
    chat_template: bool = False
    chat_template_kwargs: bool = True

    def check_number(self, name: str, value: object) -> None:
        """Of one of `NUMBERS`. Raises ProxyError (400). What the engine refuses is left to it."""
        cap: int | None = getattr(self, NUMBERS[name])
        try:
            number = 0 if value is None else lax.as_int(value)
        except ValueError:
            return
        # Of log probabilities -1 is all that there are.
        if cap is not None and (number > cap or (number < 0 and NUMBERS[name] == "logprobs")):
            raise refused(f"{name} is {number}, and {cap} is the most here", name)

    def check_prompts(self, name: str, count: int) -> None:
        """Of one of `LISTS`. Raises ProxyError (400)."""
        if count > self.prompts:
            raise refused(f"{name} has more than {self.prompts} prompts", name)

    def check_template(self, name: str, written: bytes) -> None:
        """Raises ProxyError (400) where ``name`` may not be there with the value that is ``written``."""
        if written == b"null":
            return
        if not (self.chat_template if name == TEMPLATE else self.chat_template_kwargs):
            raise refused(f"{name} is not allowed here", name)
        if name == TEMPLATE_FIELDS and not self.chat_template and (TEMPLATE.encode() in written or b"\\u" in written):
            raise refused(f"{TEMPLATE} is not allowed here, nor in {name}", name)

    def suspects(self, body: bytes) -> bool:
        """Whether JSON without escapes of letters has to be read to know that it keeps to them. Nearly none has: it
        says nothing of what is capped, or a small number of tokens. Each look costs a hundredth of a small request."""
        # Without those that are escaped, each second piece is a text, in which nothing is opened.
        plain = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
        pieces = plain.split(b'"')
        if not _SUSPICIOUS[self.logprobs is not None].isdisjoint(pieces):
            return True
        if self.tokens is not None and len(_small_numbers(self.tokens).findall(body)) != body.count(b'tokens"'):
            return True
        if len(body) <= self.depth:
            return False
        marks = b"".join(pieces[::2])
        size = len(marks)
        return (size > self.depth and marks.count(b"[") + marks.count(b"{") > self.depth) or (
            size > self.prompts and marks.count(b",") >= self.prompts
        )


#: Of who asks for nothing but names, and of requests while nobody needs a key and no cap was set.
NO_CAPS = Caps(2**63, 2**63, None, 2**63, None, MOST_DEPTH, True, True)


@dataclass(frozen=True, slots=True)
class CapsByTenant:
    """Those of requests with a key, and of ``anybody`` while nobody needs one."""

    keyed: Caps = NO_CAPS
    anybody: Caps = NO_CAPS

    @classmethod
    def of(cls, caps: Caps, *, exposed: bool) -> CapsByTenant:
        """``caps`` hold for all where one of them was set, or whoever reaches the cluster may ask (``exposed``)."""
        return cls(caps, caps if exposed or caps != Caps() else NO_CAPS)


NONE_AT_ALL = CapsByTenant()


@functools.lru_cache(maxsize=8)
def _small_numbers(most: int) -> re.Pattern[bytes]:
    """Of fewer digits than ``most``."""
    return re.compile(rb'tokens"\s*+:\s*+[0-9]{0,%d}+\s*+[,}]' % (len(str(most)) - 1))
