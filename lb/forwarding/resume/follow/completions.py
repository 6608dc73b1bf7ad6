"""Events of `/v1/completions`. Pure."""

from __future__ import annotations

from lb.forwarding.resume.follow import choices
from lb.forwarding.resume.follow.atoms import Event, ItemsAtom, MarkAtom, Take, TextAtom, json_key, rest_of_text
from lb.forwarding.resume.follow.choices import ChoiceGrammar

#: What is told of the prompt, once.
_OF_PROMPT = ("prompt_token_ids", "prompt_logprobs")


class CompletionGrammar(ChoiceGrammar):
    def _choice(self, choice: Event, take: Take) -> Event | None:
        index, text = choice.get("index", 0), choice.get("text") or ""
        rest = rest_of_text(take(TextAtom((index, "text"), "text", text))) if text else ""
        logprobs, ids = _logprobs(index, choice.get("logprobs"), take), choices.ids(choice, take)
        prompt = [
            key for key in _OF_PROMPT
            if choice.get(key) is not None and take(MarkAtom((index, key), json_key(choice[key]))) is not None
        ]  # fmt: skip
        ends = choices.finish(choice, take)
        if not (rest or logprobs or ids or prompt or ends):
            return None
        made = {**choice, "text": rest, **{key: None for key in _OF_PROMPT if key in choice and key not in prompt}}
        if choice.get("logprobs"):
            made["logprobs"] = logprobs
        if choice.get("token_ids") is not None:
            made["token_ids"] = ids
        return made


def _logprobs(index: int, found: Event | None, take: Take) -> Event | None:
    """One list for each thing that is told of a token."""
    tokens = (found or {}).get("tokens") or []
    if not found or not tokens:
        return None
    left = take(ItemsAtom((index, "logprobs"), "logprobs", tuple(tokens)))
    if not isinstance(left, ItemsAtom) or not left.keys:
        return None
    had = len(tokens) - len(left.keys)
    return {key: values[had:] if isinstance(values, list) else values for key, values in found.items()}
