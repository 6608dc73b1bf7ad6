from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.chat.conversation import Conversation


@given(st.lists(st.tuples(st.sampled_from(["answer", "fail", "again", "reset"]), st.text(min_size=1), st.text())))
def test_questions_and_answers_always_alternate(steps: list[tuple[str, str, str]]) -> None:
    talk = Conversation("m", system="be short")
    for step, question, answer in steps:
        if step == "reset":
            talk.reset()
            assert len(talk.messages()) == 1
            continue
        question = (talk.again() if step == "again" else "") or question
        sent = talk.ask(question)
        assert sent[-1] == {"role": "user", "content": question}
        talk.answered(answer if step == "answer" else "")
        assert talk.asked == question
        roles = [m["role"] for m in talk.messages()]
        assert roles == ["system", *["user", "assistant"] * (len(roles) // 2)]


def test_put_again_the_last_question_is_there_once() -> None:
    talk = Conversation("m")
    talk.ask("one")
    talk.answered("1")
    assert talk.again() == "one"
    assert talk.turns == []
    assert talk.again() == "one"
    talk.ask("one")
    talk.answered("2")
    assert talk.turns == [("one", "2")]


def test_a_failed_question_can_be_put_again_and_costs_no_earlier_turn() -> None:
    talk = Conversation("m")
    talk.ask("one")
    talk.answered("1")
    talk.ask("two")
    talk.answered("")
    assert talk.again() == "two"
    assert talk.turns == [("one", "1")]


def test_as_a_file() -> None:
    talk = Conversation("m", system="s")
    talk.ask("é")
    talk.answered("你好")
    assert json.loads(talk.saved(as_json=True)) == {"model": "m", "messages": talk.messages()}
    assert talk.saved(as_json=False) == "model: m\n\n## system\n\ns\n\n## user\n\né\n\n## assistant\n\n你好\n"
