"""Who may join, and who has."""

from __future__ import annotations

import json

import pytest

from cluster.joining import reach, roster
from cluster.joining.roster import JoinToken, NotAdmitted, Roster

_PRINT = "ab" * 32


def test_a_token_lets_machines_in_until_it_expires() -> None:
    invited, token = Roster().invited(_PRINT, 60.0, 1000.0)
    one, name, secret = invited.admitted(token.id, token.secret, "lb-2", 1059.0)
    two, other, _ = one.admitted(token.id, token.secret, "lb-2", 1059.0)
    assert (name, other) == ("lb-2", "lb-2-2")
    two.check(name, secret)
    with pytest.raises(NotAdmitted, match="expired"):
        two.admitted(token.id, token.secret, "lb-3", 1060.0)
    two.check(name, secret)  # who is in stays


@pytest.mark.parametrize("wrong", ["secret", "id", "revoked"])
def test_nobody_else_is_let_in(wrong: str) -> None:
    invited, token = Roster().invited(_PRINT, 60.0, 1000.0)
    if wrong == "revoked":
        invited = invited.without_token(token.id)
    id, secret = ("0" * 8 if wrong == "id" else token.id), ("x" if wrong == "secret" else token.secret)
    with pytest.raises(NotAdmitted, match="not known"):
        invited.admitted(id, secret, "lb", 1000.0)


def test_a_member_is_known_by_its_own_secret_until_it_is_evicted() -> None:
    invited, token = Roster().invited(_PRINT, 60.0, 0.0)
    members, name, secret = invited.admitted(token.id, token.secret, "../etc", 0.0)
    assert name == "balancer", "names are not taken as they come"
    for who, by in ((name, token.secret), ("other", secret), (name, "")):
        with pytest.raises(NotAdmitted):
            members.check(who, by)
    members.check(name, secret)
    with pytest.raises(NotAdmitted, match="evicted"):
        members.without_machine(name).check(name, secret)
    with pytest.raises(KeyError):
        members.without_machine("nobody")


def test_what_is_kept_holds_no_secret() -> None:
    invited, token = Roster().invited(_PRINT, 60.0, 0.0)
    members, _, secret = invited.admitted(token.id, token.secret, "lb", 0.0)
    kept = json.dumps(members.to_json())
    assert token.secret not in kept and secret not in kept and Roster.from_json(json.loads(kept)) == members
    assert token.secret not in repr(token)


def test_there_are_no_more_tokens_and_machines_than_anybody_needs() -> None:
    now = Roster()
    for _ in range(roster.MOST_TOKENS):
        now, token = now.invited(_PRINT, 60.0, 0.0)
    with pytest.raises(ValueError, match="tokens"):
        now.invited(_PRINT, 60.0, 59.0)
    assert len(now.invited(_PRINT, 60.0, 60.0)[0].tokens) == 1, "what has expired is forgotten"
    for _ in range(roster.MOST_MACHINES):
        now, _, _ = now.admitted(token.id, token.secret, "lb", 0.0)
    with pytest.raises(NotAdmitted, match="evict"):
        now.admitted(token.id, token.secret, "lb", 0.0)


def test_a_token_is_written_and_read() -> None:
    _, token = Roster().invited(_PRINT, 60.0, 0.0)
    assert JoinToken.parse(f" {token.text()}\n") == token
    for wrong in ("", "a.b.c", token.text()[:-1], token.text() + "0"):
        with pytest.raises(ValueError):
            JoinToken.parse(wrong)


@pytest.mark.parametrize(
    ("host", "ip", "there"),
    [("127.0.0.1", "", False), ("localhost", "127.0.0.1", False), ("::1", "", False), ("localhost", "", False),
     ("10.0.0.5", "", True), ("vllm.example", "10.0.0.6", True), ("vllm.example", "127.0.0.1", False)],
)  # fmt: skip
def test_another_machine_is_not_told_of_what_it_would_look_for_on_itself(host: str, ip: str, there: bool) -> None:
    backends = {"epoch": 1, "backends": [{"id": "a", "host": host, "ip": ip}]}
    assert bool(reach.reachable(backends)["backends"]) == there
    assert backends["backends"], "the set of balancers here is left as it is"


def test_who_comes_through_a_tunnel_is_on_another_machine() -> None:
    assert reach.is_here("127.0.0.1", "this boot", "this boot")
    assert not reach.is_here("127.0.0.1", "another", "this boot")
    assert not reach.is_here("10.0.0.6", "this boot", "this boot")
