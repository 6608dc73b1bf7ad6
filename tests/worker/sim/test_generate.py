"""Stepping: stop strings, hold-back, minimum, maximum, EOS."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from worker.sim.engine.generate import SamplingParams, Sequence, TokenStep, start
from worker.sim.engine.tokens import EOS, decode, encode

PROMPTS = st.text("abc the of é", max_size=8).map(lambda text: encode(text, bos=True))
STOPS = st.lists(st.sampled_from(["the", "a", " o", "é", "ing", "zz", " you", "e "]), max_size=3).map(tuple)


def run(sequence: Sequence) -> list[TokenStep]:
    steps = []
    while sequence.finish_reason is None:
        steps.append(sequence.step())
    return steps


@given(PROMPTS, st.integers(1, 60))
def test_without_eos_it_runs_to_the_maximum(prompt: list[int], most: int) -> None:
    sequence = start("demo", prompt, SamplingParams(most, ignore_eos=True))
    steps = run(sequence)
    assert len(steps) == most and sequence.finish_reason == "length"
    assert "".join(step.text for step in steps) == sequence.text
    # Only the bytes of an unfinished character at the end are missing.
    assert decode(sequence.token_ids).rstrip("�") == sequence.text


@given(PROMPTS, STOPS, st.booleans(), st.integers(0, 20))
def test_stop_strings(prompt: list[int], stops: tuple[str, ...], include: bool, least: int) -> None:
    params = SamplingParams(40, min_tokens=least, ignore_eos=True, stop=stops, include_stop_str_in_output=include)
    free = start("demo", prompt, replace(params, stop=()))
    run(free)
    sequence = start("demo", prompt, params)
    steps = run(sequence)
    shown = "".join(step.text for step in steps)
    assert shown == sequence.text
    assert free.text.startswith(shown)
    assert sequence.token_ids == free.token_ids[: len(sequence.token_ids)]
    if sequence.finish_reason == "stop":
        assert sequence.stop_reason in stops
        assert len(sequence.token_ids) > least
        assert shown.endswith(str(sequence.stop_reason)) or not include
    elif not least:
        assert not any(stop in free.text for stop in stops)


@given(PROMPTS, STOPS.filter(bool))
def test_no_more_than_the_longest_stop_string_is_held_back(prompt: list[int], stops: tuple[str, ...]) -> None:
    sequence = start("demo", prompt, SamplingParams(30, ignore_eos=True, stop=stops))
    free = start("demo", prompt, SamplingParams(30, ignore_eos=True))
    shown = full = ""
    while sequence.finish_reason is None:
        shown += sequence.step().text
        full += free.step().text
        if sequence.finish_reason is None:
            assert len(full) - len(shown) == min(len(full), max(map(len, stops)) - 1)


def test_eos_ends_with_stop_and_its_id_is_reported() -> None:
    for number in range(200):
        sequence = start("demo", [number], SamplingParams(400))
        run(sequence)
        if sequence.finish_reason == "stop":
            assert sequence.token_ids[-1] == EOS and sequence.stop_reason is None
            assert EOS not in sequence.token_ids[:-1]
            return
    raise AssertionError("no sequence of 200 ended by itself")


def test_the_minimum_keeps_eos_and_stop_ids_away() -> None:
    for number in range(50):
        free = start("demo", [number], SamplingParams(30, ignore_eos=True))
        run(free)
        stop_id = free.token_ids[3]
        params = SamplingParams(30, min_tokens=10, stop_token_ids=frozenset({stop_id}))
        sequence = start("demo", [number], params)
        run(sequence)
        assert len(sequence.token_ids) >= 10
        assert EOS not in sequence.token_ids[:9] and stop_id not in sequence.token_ids[:9]


def test_a_stop_id_is_reported_and_hidden() -> None:
    free = start("demo", encode("x"), SamplingParams(9, ignore_eos=True))
    run(free)
    params = SamplingParams(9, ignore_eos=True, stop_token_ids=frozenset({free.token_ids[4]}))
    sequence = start("demo", encode("x"), params)
    run(sequence)
    count = free.token_ids.index(free.token_ids[4]) + 1
    assert sequence.token_ids == free.token_ids[:count]
    assert sequence.stop_reason == free.token_ids[4]
    assert sequence.text == decode(free.token_ids[: count - 1])


def test_abort_shows_what_was_held_back() -> None:
    sequence = start("demo", encode("x"), SamplingParams(99, ignore_eos=True, stop=("zzzzzzzzz",)))
    shown = "".join(sequence.step().text for _ in range(10))
    step = sequence.abort()
    assert step.finish_reason == "abort" and step.token_ids == ()
    assert shown + step.text == decode(sequence.token_ids).rstrip("�")
