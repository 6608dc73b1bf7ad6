"""The most that one request may ask for, whatever its engine would do. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

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
#: Those that few requests have.
_RARE = ("n", "best_of", TEMPLATE, TEMPLATE_FIELDS)
FIELDS = frozenset({*NUMBERS, *LISTS, TEMPLATE, TEMPLATE_FIELDS})


@functools.lru_cache(maxsize=8)
def _without(tokens: int | None, *, logprobs: bool) -> re.Pattern[bytes]:
    """JSON, without quotation marks that are escaped, of which no text is the name of something rare or, unless those
    are free, of ``logprobs``; what is said of ``tokens``, where those are not free, has fewer digits."""
    names = [*_RARE, *(name for name, cap in NUMBERS.items() if cap == "logprobs" and not logprobs)]
    text = rb'"(?!(?:%b)")[^"]*+"' % "|".join(names).encode()
    if tokens is not None:
        text += rb'(?:(?<!tokens")|(?!\s*+:)|\s*+:\s*+[0-9]{0,%d}+\s*+[,}])' % (len(str(tokens)) - 1)
    return re.compile(rb'[^"]*+(?:%b[^"]*+)*+\Z' % text)


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
    #: What says nothing of what is capped, or a small number of tokens.
    _harmless: re.Pattern[bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_harmless", _without(self.tokens, logprobs=self.logprobs is None))

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
        if b"\\" in body:
            body = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # now a quotation mark begins a text, or ends it
        if self._harmless.match(body) is None:
            return True
        size = len(body)
        deep = size > self.depth and body.count(b"[") + body.count(b"{") > self.depth
        if not deep and not (size > self.prompts and body.count(b",") >= self.prompts):
            return False
        marks = b"".join(body.split(b'"')[::2])  # without texts
        return marks.count(b"[") + marks.count(b"{") > self.depth or marks.count(b",") >= self.prompts


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
