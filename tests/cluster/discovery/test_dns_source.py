"""Servers in DNS, of a real name server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from cluster.discovery import dns_source
from cluster.discovery.dns_source import DnsSource
from cluster.discovery.listing import SourceFailed
from config.values.discovery import DnsName
from nameserver import NameServer, serving


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    async with serving() as server:
        yield server


def source(names: NameServer, name: str = "vllm.test", port: int | None = 8000, scheme: str = "http") -> DnsSource:
    return DnsSource(DnsName(name, port, ("127.0.0.1", names.port), scheme))


async def failure(asked: DnsSource) -> str:
    with pytest.raises(SourceFailed) as error:
        await asked.listed(0.0)
    return str(error.value)


async def test_addresses_of_both_families_are_servers(names: NameServer) -> None:
    names.records = {("vllm.test", "A"): ["10.0.0.2", "10.0.0.1"], ("vllm.test", "AAAA"): ["fd00::1"]}
    found = await source(names).listed(0.0)
    assert found.urls == ("http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://[fd00::1]:8000")


async def test_srv_records_say_the_port_and_their_names_are_asked_for_there(names: NameServer) -> None:
    names.records = {
        ("_http._tcp.vllm.test", "SRV"): ["0 5 8001 a.vllm.test.", "9 5 8002 b.vllm.test."],
        ("a.vllm.test", "A"): ["10.0.0.1"], ("b.vllm.test", "A"): ["10.0.0.2"],
    }  # fmt: skip
    found = await source(names, "_http._tcp.vllm.test", None).listed(0.0)
    assert found.urls == ("http://10.0.0.1:8001", "http://10.0.0.2:8002"), "priorities are not taken"
    by_name = await source(names, "_http._tcp.vllm.test", None, "https").listed(0.0)
    assert by_name.urls == ("https://a.vllm.test:8001", "https://b.vllm.test:8002"), "certificates are of names"
    names.refused = {("b.vllm.test", "A"), ("b.vllm.test", "AAAA")}
    assert "b.vllm.test" in await failure(source(names, "_http._tcp.vllm.test", None))


async def test_one_family_does_if_the_other_cannot_be_asked_for(names: NameServer) -> None:
    names.records, names.refused = {("vllm.test", "A"): ["10.0.0.1"]}, {("vllm.test", "AAAA")}
    assert (await source(names).listed(0.0)).urls == ("http://10.0.0.1:8000",)
    names.records = {("vllm.test", "A"): []}
    assert "vllm.test" in await failure(source(names)), "nothing of the one says nothing of the other"


async def test_a_name_without_addresses_is_an_empty_list_and_one_that_is_none_a_failure(names: NameServer) -> None:
    names.records = {("vllm.test", "A"): []}
    assert (await source(names).listed(0.0)).urls == ()
    assert "does not exist" in await failure(source(names, "other.test"))


async def test_a_name_server_that_says_nothing_fails(names: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_source, "_ANSWER_S", 0.05)
    names.silent = True
    assert "vllm.test" in await failure(source(names))


async def test_it_is_asked_again_when_the_answers_time_is_over(
    names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    names.records = {("vllm.test", "A"): ["10.0.0.1"]}
    asked = source(names)
    monkeypatch.setattr(dns_source, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))  # there alone
    for ttl in (0, 7, 86400, 0):
        names.ttl = ttl
        await asked.listed(0.0)
    assert [round(pause) for pause in pauses] == [2, 7, 60]


async def test_more_than_a_datagram_holds_is_asked_for_by_tcp(names: NameServer) -> None:
    names.records = {("vllm.test", "A"): [f"10.0.{n >> 8}.{n & 255}" for n in range(500)]}
    assert len((await source(names).listed(0.0)).urls) == 500 and names.over_tcp
    names.records[("vllm.test", "A")] += [f"10.1.0.{n}" for n in range(200)]
    assert "700 servers are listed" in await failure(source(names))


async def test_questions_are_bounded(names: NameServer) -> None:
    """A SRV answer can name hundreds of hosts."""
    many = [f"0 5 8001 n{number}.test." for number in range(100)]
    names.records = {("s.test", "SRV"): many}
    names.records |= {(f"n{number}.test", "A"): [f"10.0.0.{number}"] for number in range(100)}
    async with asyncio.timeout(20):
        assert len((await source(names, "s.test", None).listed(0.0)).urls) == 100
