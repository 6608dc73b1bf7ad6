"""What answers and requests are made of that concern API keys."""

from __future__ import annotations

from collections.abc import Mapping

from config.identity.api_keys import SCOPES, TAKEN_NAMES, Priority
from lb.admin.openapi.parts import FLAG, NUMBER, TEXT, Json, answer, array, described, one_of, or_null, question, ref

_DURATION: Json = {"type": "string", "pattern": "^[0-9]{1,5}[smhdw]$"}
_LIMIT: Json = {"type": "integer", "minimum": 1, "maximum": 10**15}
_INSTANT: Json = {"type": "number", "minimum": 0, "maximum": 10**11}

#: What one may say of an API key.
_KEY_FIELDS: Mapping[str, Json] = {
    "scope": described(one_of(*SCOPES), "What it is for: models; looking at the cluster; changing it, too"),
    "models": or_null({
        "type": "array", "minItems": 1, "maxItems": 256,
        "items": {"type": "string", "pattern": r"^[^\u0000-\u0020\u007f-\u00a0]{1,256}$"},
    }, "The only ones that it may ask for"),
    "rpm": or_null(_LIMIT, "Requests a minute"),
    "tpm": or_null(_LIMIT, "Tokens a minute, of prompts and answers"),
    "max_concurrent": or_null(_LIMIT, "Requests at the same time"),
    "priority": one_of(*Priority),
    "weight": {"type": "number", "minimum": 0.001, "maximum": 1000, "description": "Its share within its priority"},
    "expires": {
        "anyOf": [_INSTANT, _DURATION, {"type": "null"}], "description": "Seconds since 1970, or from now: 30d, 12h"},
    "budget": or_null({"type": "string", "pattern": "^[1-9][0-9]{0,14}/(day|month)$"}, "Tokens: 1000000/day"),
}  # fmt: skip
_KEY_NAME: Json = {
    "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", "not": {"enum": sorted(TAKEN_NAMES)},
}  # fmt: skip
_KEY: Mapping[str, Json] = {
    "name": TEXT, **_KEY_FIELDS, "expires": or_null(NUMBER, "Seconds since 1970"),
    "created": described(NUMBER, "Seconds since 1970"), "expired": FLAG,
    "source": described(one_of("state", "file"), "Whether it was made on the cluster or stands in a file"),
    "secrets": described(array(answer({"until": or_null(NUMBER, "Seconds since 1970")})), "Those that hold"),
}  # fmt: skip

KEY_SCHEMAS: Mapping[str, Json] = {
    "Key": answer(_KEY),
    "Keys": answer({"keys": array(ref("Key"))}),
    "KeyWithSecret": answer({**_KEY, "secret": described(TEXT, "Shown this once")}),
    "KeyRevoked": answer({"name": TEXT, "revoked": {"const": True}}),
    "CreateKey": question({"name": _KEY_NAME}, **_KEY_FIELDS),
    "UpdateKey": question(**_KEY_FIELDS),
    "RotateKey": question(grace={
        "anyOf": [{"type": "number", "minimum": 0, "maximum": 10**9}, _DURATION, {"type": "null"}],
        "description": "For how long the secrets before hold: seconds, or 24h; a day",
    }),
}  # fmt: skip
