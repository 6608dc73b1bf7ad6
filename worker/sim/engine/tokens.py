"""The simulated tokenizer and model: pure functions, no I/O.

Vocabulary: ids 0-255 are bytes, then BOS and EOS, then words with a leading space. Every UTF-8 text can be
encoded and decoded exactly. The next token is a pure function of the model's name and of *all* tokens before
it, so any continuation can be checked on any other worker. The state is a rolling 64-bit hash (one step costs
the same however long the context is) plus the unfinished UTF-8 character the last tokens left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worker.sim.engine.words import WORDS

BOS = 256
EOS = 257
_FIRST_WORD = 258
_SPECIAL_TEXT = {BOS: b"<s>", EOS: b"</s>"}

_WORD_BYTES = tuple(b" " + word.encode() for word in dict.fromkeys(WORDS.split()))
_WORD_IDS = {word[1:]: _FIRST_WORD + index for index, word in enumerate(_WORD_BYTES)}
_LONGEST_WORD = max(map(len, _WORD_IDS))
PIECES: tuple[bytes, ...] = (*(bytes([b]) for b in range(256)), b"", b"", *_WORD_BYTES)
VOCAB_SIZE = len(PIECES)
# vLLM bounds the characters of a prompt by the longest token's length before it tokenizes.
MAX_CHARS_PER_TOKEN = _LONGEST_WORD + 1

# Now and then the model writes one of these, byte by byte: then text lags behind tokens, as with vLLM.
_GLYPHS = tuple(ch.encode() for ch in "éüñßλж→✓日本語😀🚀")
_PUNCTUATION = b".,\n"
_MASK = (1 << 64) - 1
_MULTIPLIER = 0x9E3779B97F4A7C15
# Chances of 1024: the end, a character outside ASCII, punctuation; the rest are words.
_EOS_BELOW = 4
_GLYPH_BELOW = 44
_PUNCTUATION_BELOW = 104


def encode(text: str, *, bos: bool = False) -> list[int]:
    """Token ids of ``text``: at each position the longest piece that fits; ``bos`` puts BOS in front."""
    ids = [BOS] if bos else []
    # Words are the only pieces longer than a byte and hold a space only in front: split there.
    head, *rest = text.encode("utf-8", "replace").split(b" ")
    ids.extend(head)
    for part in rest:
        length = _longest_word(part)
        if length:
            ids.append(_WORD_IDS[part[:length]])
            ids.extend(part[length:])
        else:
            ids.append(32)
            ids.extend(part)
    return ids


def _longest_word(part: bytes) -> int:
    for length in range(min(len(part), _LONGEST_WORD), 0, -1):
        if part[:length] in _WORD_IDS:
            return length
    return 0


def piece(token: int, *, special: bool = False) -> bytes:
    """The bytes of one token; special ids are empty unless ``special``; unknown ids are empty."""
    if special and token in _SPECIAL_TEXT:
        return _SPECIAL_TEXT[token]
    return PIECES[token] if 0 <= token < VOCAB_SIZE else b""


def decode(ids: Iterable[int], *, special: bool = False) -> str:
    """Text of ``ids``; bytes that are not UTF-8 become U+FFFD."""
    return b"".join(piece(token, special=special) for token in ids).decode("utf-8", "replace")


@dataclass(slots=True)
class Context:
    """What the next token depends on: a hash of model and tokens, and an unfinished character."""

    digest: int
    pending: bytes = b""

    def push(self, token: int) -> None:
        """Append ``token``; constant time."""
        self.digest = ((self.digest ^ (token + 1)) * _MULTIPLIER + 0x632BE59BD9B4E019) & _MASK
        self.digest ^= self.digest >> 29
        if token < 128 or token > 255:
            self.pending = b""
        else:
            self.pending = unfinished(self.pending + bytes([token]))

    def mix(self, salt: int) -> None:
        """Let what follows depend on ``salt`` too."""
        self.digest = _mix(self.digest ^ salt)

    def draw(self) -> int:
        """64 bits that depend on all tokens so far."""
        return _mix(self.digest)

    def next_token(self, *, may_end: bool = True) -> int:
        """The token that follows; never EOS unless ``may_end``."""
        value = _mix(self.digest)
        if self.pending:
            return _continuation(self.pending, value)
        draw, value = value & 1023, value >> 10
        if draw < _EOS_BELOW and may_end:
            return EOS
        if draw < _GLYPH_BELOW:
            return _GLYPHS[value % len(_GLYPHS)][0]
        if draw < _PUNCTUATION_BELOW:
            return _PUNCTUATION[value % len(_PUNCTUATION)]
        return _FIRST_WORD + value % len(_WORD_BYTES)


def context(model: str, ids: Sequence[int]) -> Context:
    """The state of ``model`` after reading ``ids``."""
    state = Context(0xCBF29CE484222325)
    for byte in model.encode():
        state.digest = _mix(state.digest ^ byte)
    for token in ids:
        state.push(token)
    return state


def unfinished(tail: bytes) -> bytes:
    """The part of ``tail`` that may still become one UTF-8 character; empty if it is complete or broken."""
    lead = tail[0]
    length = 2 if 0xC2 <= lead < 0xE0 else 3 if 0xE0 <= lead < 0xF0 else 4 if 0xF0 <= lead < 0xF5 else 1
    begins_well = len(tail) == 1 or tail[1] in _second_bytes(lead)
    if len(tail) < length and begins_well and all(0x80 <= byte < 0xC0 for byte in tail[1:]):
        return tail
    # A broken sequence may end in the first byte of a new character.
    return unfinished(tail[-1:]) if len(tail) > 1 and tail[-1] >= 0xC2 else b""


def _second_bytes(lead: int) -> range:
    low = 0xA0 if lead == 0xE0 else 0x90 if lead == 0xF0 else 0x80
    high = 0xA0 if lead == 0xED else 0x90 if lead == 0xF4 else 0xC0
    return range(low, high)


def _continuation(pending: bytes, value: int) -> int:
    fitting = [glyph for glyph in _GLYPHS if glyph.startswith(pending)]
    if fitting:
        return fitting[value % len(fitting)][len(pending)]
    return _second_bytes(pending[0])[0] if len(pending) == 1 else 0x80


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
