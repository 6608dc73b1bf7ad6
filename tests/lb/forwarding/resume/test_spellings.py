"""Streams of requests in every spelling, broken and continued, are the undisturbed ones."""

from __future__ import annotations

from typing import Any

import pytest

import spellings
from simstreams import seen, stream
from transcripts import broken, transcript_of


@pytest.mark.parametrize("body", spellings.requests(), ids=spellings.label)
async def test_however_it_is_asked_for_it_goes_on_as_the_same(body: dict[str, Any]) -> None:
    chat = "messages" in body
    undisturbed = seen(b"".join(stream(body, chat)))
    for breaks in ((3,), (8, 5), (14, 1, 1)):
        transcript = transcript_of(body, chat)
        assert not transcript.plan.obstacle
        assert seen(await broken(transcript, breaks)) == undisturbed


async def test_the_rest_of_the_context_is_a_chats_limit_where_none_is_given() -> None:
    for extra in ({}, {"max_tokens": None}, {"max_completion_tokens": None, "max_tokens": None}):
        body = {**spellings.BODY, "messages": [{"role": "user", "content": "hello"}], **extra}
        if not extra:
            del body["max_tokens"]
        assert seen(await broken(transcript_of(body, True), (8, 5))) == seen(b"".join(stream(body, True)))
