"""Chat messages: checking them and rendering the one built-in chat template. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worker.sim.api.fields import Problems
from worker.sim.errors import ApiError

# vLLM accepts a union of message types; the first member gives the error its name.
_FIRST_MEMBER = "ChatCompletionDeveloperMessageParam"


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """The prompt text without its BOS, the role of the answer, and the text ``echo`` repeats."""

    text: str
    role: str
    echoed: str


def check_messages(value: Any, loc: str, problems: Problems) -> Any:
    """A list of messages with a role each, and content that is text or parts."""
    if not isinstance(value, list):
        return problems.note("list_type", loc, "Input should be a valid list", value)
    for index, message in enumerate(value):
        _check_message(message, f"{loc}.{index}.{_FIRST_MEMBER}", problems)
    return value


def _check_message(message: Any, loc: str, problems: Problems) -> None:
    if not isinstance(message, dict):
        problems.note("dict_type", loc, "Input should be a valid dictionary", message)
        return
    content = message.get("content", "")
    no_content = content is None and message.get("role") == "assistant" and "tool_calls" not in message
    if not isinstance(content, str | list) and not no_content:
        problems.note("string_type", f"{loc}.content", "Input should be a valid string", content)
    elif not isinstance(message.get("role"), str):
        problems.note("missing", f"{loc}.role", "Field required", message)


def render(made: dict[str, Any], served: str) -> RenderedChat:
    """The prompt of a chat: one line a message, then the line to be continued."""
    messages = made["messages"]
    if not messages:
        text = "Cannot apply chat template to an empty conversation. Provide at least one message."
        raise ApiError(text)
    lines = [(message["role"], _text(message.get("content"), served)) for message in messages]
    last_role, last_text = lines[-1]
    text = "".join(f"{role}: {content}\n" for role, content in lines)
    prompted = made.get("add_generation_prompt", True)
    if made.get("continue_final_message") and not prompted:
        text = text.removesuffix("\n")
    elif prompted:
        text += "assistant:"
    role = "assistant" if prompted else last_role
    return RenderedChat(text, role, last_text if last_role == role else "")


def _text(content: Any, served: str) -> str:
    if isinstance(content, list):
        return "\n".join(_part(part, served) for part in content)
    return content or ""


def _part(part: Any, served: str) -> str:
    if isinstance(part, dict):
        kind, text = part.get("type"), part.get("text")
        if kind == "text" and isinstance(text, str):
            return text
        if kind in ("image_url", "input_audio") and isinstance(part.get(kind), dict):
            raise ApiError(f"{served} is not a multimodal model")
    text = "7 validation errors for ValidatorIterator\n0.ChatCompletionContentPartTextParam"
    raise ApiError(text + f"\n  Input is not a content part [input_type={type(part).__name__}]")
