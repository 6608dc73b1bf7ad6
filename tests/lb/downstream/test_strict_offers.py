"""Paths and methods that are not on offer: an error, nothing of it at a worker, and the connection goes on."""

from __future__ import annotations

import re

from httpforms import PLAIN, SMUGGLED, Form, Forms, add, families, head, of, show, target
from strictreader import Pair, read_answer

REFUSED: Forms = {}

# paths and methods

for value in (
    b"/", b"//", b"/version/", b"/version/.", b"/version/..", b"/./version", b"/x/../version", b"/../version",
    b"/..", b"//version", b"/version//", b"///version", b"//x/version", b"/http://x/version", b"/%76ersion",
    b"/version%00", b"/version%2f", b"/version%20", b"/version%23", b"/version%3f", b"/version%0d%0aA:b",
    b"/%2e%2e/version", b"/%2e/version", b"/%2E%2E%2Fversion", b"/..%2fversion", b"/x/..;/version", b"/version;",
    b"/version;x=1", b"/VERSION", b"/Version", b"/v1", b"/v1/", b"/v1/completions/", b"/v1%2fcompletions",
    b"/v1%2Fcompletions", b"/v1/./completions", b"/v1//completions", b"/v1/x/../completions", b"/v1/completions/..",
    b"/v1/completions%20", b"/v1/completions%3fx", b"/v1/completions;x", b"/v1/responses/..", b"/v1/responses/.",
    b"/v1/responses/%2e%2e", b"/v1/responses/a%2fb", b"/v1/responses/..%2f..%2fadmin", b"/v1/responses/",
    b"/v1/responses//", b"/v1/responses/resp_1/", b"/v1/responses/resp_1/..", b"/v1/responses/resp_1/../resp_2",
    b"/v1/responses/resp_1%00", b"/v1/responses/..;/", b"/health/../version", b"/metrics/../version",
    b"/v1/models/../../version", b"/health/", b"//health", b"/metrics%2f..%2fversion", b"/v1/models%2f",
    b"/admin", b"/docs", b"/openapi.json", b"/server_info", b"/reset_prefix_cache", b"/sleep", b"/wake_up",
):  # fmt: skip
    add(REFUSED, "404", {show(value): target(value)}, 404)
for value in (
    b"/v1/cluster/../completions", b"/v1/cluster/../../version", b"/v1/cluster%2fstatus", b"/v1/cluster//status",
    b"/v1/cluster/../../metrics", b"/v1/cluster/./status", b"/v1/cluster/%2e%2e/models", b"/v1/clusters",
    b"/v1/system/../../version", b"/v1/load_lora_adapter/../completions",
):  # fmt: skip
    line = b"GET " + value + b" HTTP/1.1"
    add(REFUSED, "404 of ours", {show(value): head(line, host=b"Host: localhost")}, 404)
for method, path in (
    (b"POST", b"/version"), (b"PUT", b"/version"), (b"DELETE", b"/version"), (b"PATCH", b"/version"),
    (b"OPTIONS", b"/version"), (b"TRACE", b"/version"), (b"get", b"/version"), (b"Get", b"/version"),
    (b"GETT", b"/version"), (b"PROPFIND", b"/version"), (b"X", b"/version"), (b"GET", b"/v1/completions"),
    (b"HEAD", b"/v1/completions"), (b"PUT", b"/v1/completions"), (b"TRACE", b"/v1/completions"),
    (b"OPTIONS", b"/v1/chat/completions"), (b"post", b"/v1/completions"), (b"DELETE", b"/v1/responses/resp_1"),
    (b"POST", b"/v1/responses/resp_1"), (b"GET", b"/v1/responses/resp_1/cancel"), (b"GET", b"/v1/responses"),
    (b"POST", b"http://x/version"), (b"POST", b"/version?a"),
):  # fmt: skip
    add(REFUSED, "405", {show(method + b" " + path): head(method + b" " + path + b" HTTP/1.1")}, 405)
add(REFUSED, "405", {"with its body": head(b"POST /version HTTP/1.1", b"Content-Length: 5") + b"hello"}, 405)
add(REFUSED, "404", {"with its body": head(b"POST /x HTTP/1.1", b"Content-Length: 5") + b"hello"}, 404)
add(REFUSED, "404", {
    "a request for a body": head(b"POST /x HTTP/1.1", b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED,
}, 404)  # fmt: skip
add(REFUSED, "OPTIONS", {"asterisk": head(b"OPTIONS * HTTP/1.1")}, 400, 404, 405, 501)
add(REFUSED, "OPTIONS", {"an absolute one without path": head(b"OPTIONS http://x HTTP/1.1")}, 400, 404, 405, 501)
add(REFUSED, "TRACE", {"asterisk": head(b"TRACE * HTTP/1.1")}, 400, 404, 405, 501)
add(REFUSED, "CONNECT", {"a path": head(b"CONNECT /version HTTP/1.1")}, 400, 405, 501)


@families(REFUSED)
async def test_it_is_not_on_offer_and_the_connection_goes_on(pair: Pair, forms: dict[str, Form]) -> None:
    for name, form in forms.items():
        with of(name):
            await not_on_offer(pair, form)
            pair.worker.connections.clear()


async def not_on_offer(pair: Pair, form: Form) -> None:
    async with pair.balancer.connection() as (reader, writer):
        writer.write(form.data)
        answer = await read_answer(reader, bodiless=form.data.startswith(b"HEAD"))
        assert answer.status in form.allowed, (form.data, answer)
        if answer.status == 405:
            assert re.fullmatch(rb"[A-Z]+(, [A-Z]+)*", answer.all(b"allow")[0])
        assert pair.worker.connections == []
        if answer.closes and form.allowed == {400, 404, 405, 501}:
            return
        assert not answer.closes
        writer.write(PLAIN)
        assert (await read_answer(reader)).status == 200
    assert pair.worker.targets == [b"/version?plain"]
