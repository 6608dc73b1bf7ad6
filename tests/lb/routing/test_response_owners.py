from __future__ import annotations

import pytest

from lb.routing.response_owners import ResponseOwners


@pytest.mark.parametrize("answer", [
    b'{"id":"resp_ab-C_1","object":"response"}',
    b'{ "id" : "resp_ab-C_1" }',
    b'event: response.created\ndata: {"response": {"id": "resp_ab-C_1", "status": "in_progress"}}\n\n',
])  # fmt: skip
def test_the_id_is_learned_from_a_plain_answer_and_from_a_stream(answer: bytes) -> None:
    affinity = ResponseOwners()
    affinity.learn(answer, "instance_1", 4)
    assert affinity.owner("resp_ab-C_1") == ("instance_1", 4)


@pytest.mark.parametrize("answer", [b"", b'{"id": "cmpl-1"}', b'{"previous": "resp_x"}',
                                    b" " * 5000 + b'{"id": "resp_far"}', b'{"id": "resp_%s"}' % (b"x" * 200)])
def test_an_answer_without_one_teaches_nothing(answer: bytes) -> None:
    affinity = ResponseOwners()
    affinity.learn(answer, "instance_1", 4)
    assert not affinity._owner


def test_an_unknown_id_has_no_owner() -> None:
    assert ResponseOwners().owner("resp_x") is None


def test_only_the_last_ones_are_kept() -> None:
    affinity = ResponseOwners(most=2)
    for number in range(3):
        affinity.learn(b'{"id": "resp_%d"}' % number, "instance_0", number)
    assert [affinity.owner(f"resp_{number}") for number in range(3)] == [None, ("instance_0", 1), ("instance_0", 2)]
