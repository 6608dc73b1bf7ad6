"""The simulated tokenizer and model: exact round trips, pure continuation."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.sim.engine import tokens

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
IDS = st.lists(st.integers(0, tokens.VOCAB_SIZE - 1), max_size=30)


def _grow(model: str, ids: list[int], count: int) -> list[int]:
    state = tokens.context(model, ids)
    made = []
    for _ in range(count):
        made.append(state.next_token())
        state.push(made[-1])
    return made


@given(TEXTS)
def test_every_text_survives(text: str) -> None:
    assert tokens.decode(tokens.encode(text)) == text


@given(st.lists(st.sampled_from([" the", " then", " there", "x", "é", " ", "  ", " quickly", "\n"])))
def test_words_become_one_token_and_the_longest_wins(parts: list[str]) -> None:
    text = "".join(parts)
    ids = tokens.encode(text)
    assert tokens.decode(ids) == text
    position, data = 0, text.encode()
    for token in ids:
        piece = tokens.piece(token)
        longer = [p for p in tokens.PIECES if len(p) > len(piece) and data.startswith(p, position)]
        assert not longer
        position += len(piece)


@given(IDS, st.integers(0, 40), st.sampled_from(["demo", "pirate", "poet"]))
def test_a_continuation_is_the_same_wherever_it_begins(ids: list[int], kept: int, model: str) -> None:
    whole = _grow(model, ids, 40)
    assert _grow(model, ids + whole[:kept], 40 - kept) == whole[kept:]


def test_models_differ_and_all_tokens_count() -> None:
    prompt = tokens.encode("hello world", bos=True)
    runs = [_grow("demo", prompt, 30), _grow("pirate", prompt, 30), _grow("demo", [66, *prompt], 30)]
    assert runs[0] != runs[1] != runs[2] != runs[0]


@settings(max_examples=30)
@given(IDS, st.integers(0, 2**32))
def test_what_is_generated_is_utf8_and_all_ids_exist(ids: list[int], salt: int) -> None:
    state = tokens.context(f"m{salt}", ids)
    while state.pending:
        state.push(state.next_token())
    made = []
    for _ in range(200):
        token = state.next_token()
        state.push(token)
        made.append(token)
    while state.pending:
        made.append(state.next_token())
        state.push(made[-1])
    assert "�" not in tokens.decode(made)
    assert all(0 <= token < tokens.VOCAB_SIZE for token in made)


@given(st.binary(max_size=6))
def test_an_unfinished_character_can_be_finished(tail: bytes) -> None:
    state = tokens.Context(1)
    for byte in tail:
        state.push(byte)
    before = b"".join(bytes([b]) for b in tail)
    for _ in range(4):
        if not state.pending:
            break
        token = state.next_token()
        before += bytes([token])
        state.push(token)
    assert not state.pending
    assert before.decode("utf-8", "replace").count("�") <= len(tail)


def test_ends_now_and_then_and_writes_mostly_words() -> None:
    made = _grow("demo", [tokens.BOS], 5000)
    assert 2 < made.count(tokens.EOS) < 60
    assert sum(token > tokens.EOS for token in made) > 2500
    assert any(token > 127 and token < 256 for token in made)
    assert tokens.EOS not in [tokens.context("demo", [n]).next_token(may_end=False) for n in range(600)]


def test_special_tokens_show_only_on_request() -> None:
    ids = [tokens.BOS, 65, tokens.EOS, 10**6]
    assert tokens.decode(ids) == "A"
    assert tokens.decode(ids, special=True) == "<s>A</s>"
