"""Faults: when they fire and when they are over."""

from __future__ import annotations

import pytest

from worker.sim.engine.tokens import encode
from worker.sim.errors import ApiError
from worker.sim.faults import KINDS, FaultBox, parse, parse_text


def test_every_kind_parses() -> None:
    assert {parse({"kind": kind}, 0).kind for kind in KINDS} == KINDS


@pytest.mark.parametrize("options", [{}, {"kind": "x"}, {"kind": "die", "huh": 1}, {"kind": "die", "count": "x"},
                                     {"kind": "poison", "kills": "time"}])  # fmt: skip
def test_what_is_unknown_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ApiError):
        parse(options, 0)


def test_poison_is_known_by_its_text_whatever_the_prompt_came_as() -> None:
    box = FaultBox()
    assert box.poison([encode("a poison pill")], 0) is None
    box.put(parse_text("poison:after_chunks=2", 0))
    assert box.poison([encode("bread"), encode("a poison pill")], 0)
    assert box.poison([encode("bread")], 0) is None
    assert box.due(9, 0) is None
    box.put(parse({"kind": "poison", "text": "bread", "kills": "engine"}, 0))
    eaten, drunk = box.poison([encode("bread")], 0), box.poison([encode("poison")], 0)
    assert eaten and drunk and (eaten.kills, drunk.kills) == ("engine", "process")
    box.clear("poison")
    assert not box.active(0)


def test_garbage_comes_first_or_after_chunks() -> None:
    box = FaultBox()
    box.put(parse({"kind": "garbage"}, 0))
    assert box.due(5, 0) is None
    box.put(parse({"kind": "garbage", "after_chunks": 3, "count": 1}, 0))
    assert box.due(2, 0) is None and box.due(3, 0) and box.due(4, 0) is None


def test_after_chunks_count_and_time() -> None:
    box = FaultBox()
    box.put(parse_text("reset:after_chunks=3:count=2:for_s=10", now=100))
    assert box.due(2, 100) is None
    assert box.due(3, 100) and box.due(5, 100)
    assert box.due(9, 100) is None
    box.put(parse_text("error500:for_s=1", now=100))
    assert box.fire("error500", 100.5) and not box.fire("error500", 101)
    box.put(parse({"kind": "hang"}, 0))
    box.put(parse({"kind": "stall"}, 0))
    box.clear("stall")
    assert box.due(99, 0) is None and box.get("hang", 10**6)
    box.clear()
    assert box.active(0) == []
