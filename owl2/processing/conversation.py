"""Which characters of a rendered conversation the model learns: the assistant's turns, with their end token.

Found by rendering prefixes of the conversation, so it holds for every chat template that renders a conversation as a
continuation of its beginning.
"""

from collections.abc import Callable, Sequence
from typing import Any

Message = dict[str, Any]
Render = Callable[[list[Message], bool], str]


def assistant_spans(
    messages: Sequence[Message], render: Render, special_tokens: Sequence[str]
) -> tuple[str, list[tuple[int, int]]]:
    """Render a conversation and find the assistant's turns in it.

    Args:
        messages: turns with `role` and `content`.
        render: renders messages with (True) or without (False) the prompt for generation.
        special_tokens: strings of which one may close a turn; what a template writes after it (a line break in
            ChatML) is not learnt, since generation stops before it.

    Returns:
        The whole text, and (first, last + 1) character of each assistant turn, from where generation would begin.

    Raises:
        ValueError: the template does not render conversations as continuations of their beginnings.
    """
    messages = list(messages)
    text = render(messages, False)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if index == 0:
            raise ValueError("the conversation begins with the assistant: it has no prompt to answer")
        prompt = render(messages[:index], True)
        answered = text if index + 1 == len(messages) else render(messages[: index + 1], False)
        if not (text.startswith(answered) and answered.startswith(prompt)):
            raise ValueError(
                f"the chat template renders turn {index} differently at the end of a conversation and inside it, so "
                "its assistant turns cannot be found: use a template whose renderings are prefixes of each other"
            )
        spans.append((len(prompt), len(prompt) + _end_of_turn(answered[len(prompt) :], special_tokens)))
    return text, spans


def _end_of_turn(turn: str, special_tokens: Sequence[str]) -> int:
    stripped = turn.rstrip()
    if any(token and stripped.endswith(token) for token in special_tokens):
        return len(stripped)
    return len(turn)


def check_messages(messages: Any) -> None:
    """Raise `ValueError` unless `messages` is a list of turns, each with a role and a content."""
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(f"a conversation is a list of messages with at least one, got {messages!r:.200}")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise ValueError(f"message {index} must have 'role' and 'content', got {message!r:.200}")


def media_of_conversation(messages: Sequence[Message], given: Any, kind: str) -> Any:
    """The images or videos (`kind`) of a conversation: those its content parts carry, else those given beside it.

    Raises:
        ValueError: they were given in both ways.
    """
    keys = (kind, "path", "url", "base64")
    carried = [
        next(part[key] for key in keys if part.get(key) is not None)
        for message in messages
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part.get("type") == kind and any(part.get(key) is not None for key in keys)
    ]
    if carried and given is not None:
        raise ValueError(f"the messages carry {len(carried)} {kind}s and {kind}s= was given too: give them once")
    return [carried] if carried else given


def tokens_inside(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each token, given by its (first, last + 1) character, holds a character of one of the spans."""
    return [any(first < end and last > start for start, end in spans) for first, last in offsets]
