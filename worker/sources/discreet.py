"""What libraries say, without the secrets that may stand in it."""

from __future__ import annotations

import os
import re
from typing import Any

#: Variables whose values nobody is told.
_SECRETS = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "AWS_ACCESS_KEY_ID",
)  # fmt: skip

_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")
_PASSWORD = re.compile(r"(https?://)[^\s/@'\"]+@")
_LONGEST = 500


def discreet(text: str) -> str:
    """On one line, without the values of secret variables, and without passwords and queries of URLs."""
    for value in filter(None, map(os.environ.get, _SECRETS)):
        text = text.replace(value, "…")
    return " ".join(_without_secrets(text).split())[:_LONGEST]


def discreet_values(value: Any) -> Any:
    """JSON without the queries and passwords of the URLs in it, in names and in values."""
    if isinstance(value, str):
        return _without_secrets(value)
    if isinstance(value, list | tuple):
        return [discreet_values(one) for one in value]
    if isinstance(value, dict):
        return {_without_secrets(str(name)): discreet_values(one) for name, one in value.items()}
    return value


def _without_secrets(text: str) -> str:
    return _PASSWORD.sub(r"\1…@", _QUERY.sub(r"\1?…", text))
