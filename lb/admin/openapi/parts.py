"""What the entries of the description are written with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
FLAG: Json = {"type": "boolean"}
COUNT: Json = {"type": "integer", "minimum": 0}
WHOLE: Json = {"type": "integer"}
NUMBER: Json = {"type": "number"}


def ref(name: str) -> Json:
    """A schema of `schemas.SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def described(schema: Json, words: str) -> Json:
    return {**schema, "description": words}


def or_null(schema: Json, words: str | None = None) -> Json:
    either = {**schema, "type": [schema["type"], "null"]} if "type" in schema else {"anyOf": [schema, {"type": "null"}]}
    return either if words is None else described(either, words)


def one_of(*values: str) -> Json:
    return {"type": "string", "enum": list(values)}


def array(items: Json) -> Json:
    return {"type": "array", "items": items}


def by_name(values: Json, words: str = "") -> Json:
    """An object whose keys are names of things."""
    return {"type": "object", "additionalProperties": values, **({"description": words} if words else {})}


def answer(fields: Mapping[str, Json], **optional: Json) -> Json:
    """An object in an answer: ``fields`` are always there, and there may be more."""
    return {"type": "object", "required": list(fields), "properties": {**fields, **optional}}


def question(required: Mapping[str, Json] | None = None, **optional: Json) -> Json:
    """An object in a request: nothing else may be in it."""
    fields = dict(required or {})
    shape: Json = {"type": "object", "properties": {**fields, **optional}, "additionalProperties": False}
    return {**shape, "required": list(fields)} if fields else shape


def in_path(name: str, words: str, example: str) -> Json:
    schema = {"type": "string", "minLength": 1}
    return {
        "name": name, "in": "path", "required": True, "description": words, "schema": schema, "example": example,
    }  # fmt: skip


def in_query(name: str, schema: Json, words: str) -> Json:
    return {"name": name, "in": "query", "required": False, "description": words, "schema": schema}


def in_header(name: str, schema: Json, words: str) -> Json:
    return {"name": name, "in": "header", "required": False, "description": words, "schema": schema}


def json_body(schema: Json, examples: Mapping[str, Json]) -> Json:
    """``examples`` by what they do."""
    shown = {name: {"value": value} for name, value in examples.items()}
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": shown}}}


def json_answer(words: str, schema: Json, example: Any = None) -> Json:
    content: Json = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"description": words, "headers": _REQUEST_ID, "content": {"application/json": content}}


def linked(content: Json, **links: str) -> Json:
    """An answer with what can be asked next, by operation id; each link says where its ``name`` comes from."""
    return {**content, "links": {
        name: {"operationId": name, "parameters": {"name": source}} for name, source in links.items()
    }}  # fmt: skip


def plain(words: str, *kinds: str) -> Json:
    """An answer that is text."""
    return {"description": words, "headers": _REQUEST_ID, "content": {kind: {"schema": TEXT} for kind in kinds}}


_REQUEST_ID: Json = {
    "X-Request-Id": {"description": "The request's own `X-Request-Id`, or one made for it", "schema": TEXT}
}  # fmt: skip


def operation(
    name: str, tag: str, summary: str, answers: Mapping[int, Json], *, errors: Iterable[int] = (),
    parameters: Iterable[Json] = (), body: Json | None = None, words: str = "", public: bool = False,
) -> Json:
    """One method of a path. ``name`` is what a generated client calls it; ``errors`` besides those that every
    protected path and every change has."""
    failures = set(errors) | (set() if public else {401, 403})
    shown: Json = {"operationId": name, "tags": [tag], "summary": summary}
    if words:
        shown["description"] = words
    if parameters:
        shown["parameters"] = list(parameters)
    if body is not None:
        shown["requestBody"] = body
        failures |= {400, 413, 415}
    responses = {str(status): {"$ref": f"#/components/responses/{_NAMES[status]}"} for status in sorted(failures)}
    shown["responses"] = {**{str(status): content for status, content in answers.items()}, **responses}
    if public:
        shown["security"] = []
    return shown


def _error(
    words: str, kind: str, status: int, message: str, param: str | None = None, headers: Json | None = None
) -> Json:
    example = {"error": {"message": message, "type": kind, "param": param, "code": status}}
    shown = json_answer(words, ref("Error"), example)
    return {**shown, "headers": {**_REQUEST_ID, **(headers or {})}}


_NAMES = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed",
    409: "Conflict", 413: "TooLarge", 415: "NotJson", 502: "WorkerRefused", 503: "Unavailable", 507: "NoRoom",
}  # fmt: skip

#: Of a change besides its own: no supervisor, no room on the disk.
CHANGE = (503, 507)

ERRORS: Mapping[str, Json] = {
    "BadRequest": _error("It is not understood", "BadRequestError", 400, "count: Input should be a valid integer",
                         "count"),
    "Unauthorized": _error("The bearer token is missing, wrong or used up", "AuthenticationError", 401,
                           "missing or wrong admin key: Authorization: Bearer … is needed"),
    "Forbidden": _error("Not from there: another site, another user or machine, a proxy",
                        "PermissionDeniedError", 403, "Host 'evil.example' is not a name of this cluster"),
    "NotFound": _error("There is none of that name", "NotFoundError", 404,
                       "no instance 'instance_9'; there are: instance_0", "instance_id"),
    "MethodNotAllowed": _error("The path does not take this method", "MethodNotAllowedError", 405,
                               "/v1/cluster/scale takes POST, not GET",
                               headers={"Allow": {"required": True, "description": "What it takes", "schema": TEXT}}),
    "Conflict": _error("Not as the cluster is now", "ConflictError", 409, "17 instances are outside 1..16"),
    "TooLarge": _error("The body is too large", "RequestTooLargeError", 413, "a body of more than 1048576 bytes"),
    "NotJson": _error("The body is not declared as JSON", "UnsupportedMediaTypeError", 415,
                      "the body has to be declared as Content-Type: application/json"),
    "WorkerRefused": _error("A worker refused the adapter; no worker has it", "BadGatewayError", 502,
                            "instance_1 refused adapter 'sql': rank 64 is above 16"),
    "Unavailable": _error("There is no supervisor: traffic is served, changes are not possible",
                          "ServiceUnavailableError", 503, "the supervisor is not running",
                          headers={"Retry-After": {"description": "Seconds", "schema": COUNT}}),
    "NoRoom": _error("It could not be stored: the disk is full. Nothing was changed", "InsufficientStorageError", 507,
                     "nothing was changed, as it could not be saved: no space left on device"),
}  # fmt: skip
