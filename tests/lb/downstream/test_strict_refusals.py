"""What is not plainly HTTP/1.1 is refused, and nothing that stands behind it is read."""

from __future__ import annotations

from httpforms import Form, Forms, every, families, refused, refused_behind_another, refused_bytewise
from malformed import chunks, fields, framing, lines
from strictreader import Pair

TABLES = {
    "lines": lines.MALFORMED, "fields": fields.MALFORMED, "framing": framing.MALFORMED, "chunks": chunks.MALFORMED
}  # fmt: skip


def one_in(count: int) -> Forms:
    """One in ``count`` of each table, the families by table and name."""
    return {
        f"{table}: {family}": forms
        for table, given in TABLES.items() for family, forms in (every(count, given) if count > 1 else given).items()
    }  # fmt: skip


@families(one_in(1))
async def test_it_is_refused_and_nothing_behind_it_is_read(pair: Pair, forms: dict[str, Form]) -> None:
    await refused(pair, forms)


@families(one_in(3))
async def test_byte_by_byte_it_gets_the_same_verdict(pair: Pair, forms: dict[str, Form]) -> None:
    await refused_bytewise(pair, forms)


@families(one_in(8))
async def test_behind_a_request_in_order_it_is_refused_too(pair: Pair, forms: dict[str, Form]) -> None:
    await refused_behind_another(pair, forms)
