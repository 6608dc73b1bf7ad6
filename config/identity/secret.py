"""Keys as people give them: in a variable, a file, a YAML value. Pure."""

from __future__ import annotations


def clean(text: str) -> str:
    """``text`` without the white space, line end or byte order mark around it, as editors and shells leave it. Raises
    ValueError, which does not say what the key is, for one that cannot be sent as a header: empty, of several lines,
    with control characters or bytes that are no UTF-8."""
    key = text.strip().strip("\ufeff").strip()
    if not key:
        raise ValueError("the key is empty")
    if not key.isprintable():
        raise ValueError("the key has a line end or a character that no header can carry")
    return key
