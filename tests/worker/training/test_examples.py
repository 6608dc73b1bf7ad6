"""Which tokens are learned: those of the answers, by each kind of chat template."""

from __future__ import annotations

from typing import Any

import pytest

from worker.demo import model_path
from worker.training.data import RowError, dialogue
from worker.training.examples import ExampleSet, prepare

pytestmark = pytest.mark.long  # transformers takes seconds to import

CHAT = {"messages": [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "A ship."}, {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "At sea."},
]}  # fmt: skip

#: Marks its answers itself, without the token that ends them.
MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

#: Shows the reasoning of the last answer only.
REASONING = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

#: What asks for an answer ends otherwise than what the answer begins with.
OPENED = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
)


@pytest.fixture(scope="module")
def loaded() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path())


@pytest.fixture
def tokenizer(loaded: Any) -> Any:
    before = loaded.chat_template
    yield loaded
    loaded.chat_template = before


def learned(found: ExampleSet, tokenizer: Any) -> list[list[str]]:
    """For each example the texts that are learned in a row."""
    texts = []
    for each in found.examples:
        parts, before = [], False
        for token, wanted in zip(each.tokens, each.learned, strict=True):
            if wanted:
                parts[-1:] = [[*parts[-1], token]] if before else [*parts[-1:], [token]]
            before = bool(wanted)
        texts.append([tokenizer.decode(part) for part in parts])
    return texts


@pytest.mark.parametrize(
    ("template", "texts"),
    [
        (None, [["A ship.<|end|>\n", "At sea.<|end|>\n"]]),
        (MARKED, [["A ship.", "At sea."]]),
        (REASONING, [["<think></think>A ship.<|end|>"], ["<think></think>At sea.<|end|>"]]),
        (OPENED, [["A ship.<|end|>", "At sea.<|end|>"]]),
    ],
    ids=["the model's own", "with marks", "with reasoning", "asked otherwise"],
)
def test_answers_are_learned(tokenizer: Any, template: str | None, texts: list[list[str]]) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    found = prepare([dialogue(CHAT)], tokenizer, 2048)
    assert learned(found, tokenizer) == texts
    whole = tokenizer.apply_chat_template(CHAT["messages"], tokenize=False)
    assert tokenizer.decode(found.examples[-1].tokens) == whole


@pytest.mark.parametrize("template", [None, MARKED])
def test_an_answer_without_weight_is_not_learned(tokenizer: Any, template: str | None) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    messages = [{**each, "weight": 0} if each["content"] == "A ship." else each for each in CHAT["messages"]]
    ((text,),) = learned(prepare([dialogue({"messages": messages})], tokenizer, 2048), tokenizer)
    assert text.startswith("At sea.")


def test_what_is_too_long_is_cut_and_counted(tokenizer: Any) -> None:
    row = dialogue(CHAT)
    (whole,) = prepare([row], tokenizer, 2048).examples
    first = whole.learned.index(1)
    cut = prepare([row], tokenizer, first + 1)
    assert (cut.rows, cut.truncated, cut.dropped) == (1, 1, 0)
    assert cut.examples[0].tokens == whole.tokens[: first + 1] and cut.examples[0].answer_tokens == 1
    none = prepare([row, row], tokenizer, first)
    assert (none.rows, none.truncated, none.dropped, len(none.examples)) == (2, 2, 2, 0)


def test_without_a_chat_template_a_completion_is_learned_and_a_chat_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    found = prepare([dialogue({"prompt": "One, two,", "completion": " three"})], tokenizer, 2048)
    assert learned(found, tokenizer) == [[" three<|end|>"]]
    assert tokenizer.decode(found.examples[0].tokens) == "<|bos|>One, two, three<|end|>"
    with pytest.raises(RowError, match="row 1: the model has no chat template"):
        prepare([dialogue(CHAT)], tokenizer, 2048)


def test_a_template_that_refuses_a_row_is_told_with_its_own_words(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(RowError, match=r"row 1: the chat template refuses it: .*roles must alternate"):
        prepare([dialogue(CHAT)], tokenizer, 2048)
