"""What libraries say, without the secrets that may stand in it."""

from __future__ import annotations

import os
import re

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
    return " ".join(_PASSWORD.sub(r"\1…@", _QUERY.sub(r"\1?…", text)).split())[:_LONGEST]
