"""The words of a text, of any script. Pure.

A word is letters and digits, as `rouge-score` has it; a character of a script without blanks between words is one by
itself. Of ASCII these are the very words that the library makes.
"""

from __future__ import annotations

import re

_UNSPACED = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_RUN = re.compile(rf"{_UNSPACED.pattern}|(?:(?!{_UNSPACED.pattern})[^\W_])+")


def words(text: str) -> list[str]:
    """In lower case, in their order."""
    return _RUN.findall(text.lower())
