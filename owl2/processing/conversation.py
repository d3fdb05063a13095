"""Finds the characters of a rendered conversation that the model learns: the assistant's turns with their end token.

The conversation is rendered with its answers marked or, where a template does not allow that, prefix by prefix. This
works for every chat template that renders a conversation as a continuation of its beginning.
"""

from collections.abc import Callable, Sequence
from typing import Any

Message = dict[str, Any]
Render = Callable[[list[Message], bool], str]

_MARKS = ("\ue000", "\ue001")  # characters of the private use area


def assistant_spans(
    messages: Sequence[Message], render: Render, special_tokens: Sequence[str]
) -> tuple[str, list[tuple[int, int]]]:
    """Renders a conversation and finds the assistant's turns in it.

    Args:
        messages: Turns with `role` and `content`.
        render: Renders messages with (True) or without (False) the prompt for generation.
        special_tokens: Strings, one of which may close a turn; what a template writes after it (a line break in
            ChatML) is not learnt, since generation stops before it.

    Returns:
        The whole text, and (first, last + 1) character of each assistant turn, from where generation would begin.

    Raises:
        ValueError: The template does not render conversations as continuations of their beginnings.
    """
    messages = list(messages)
    text = render(messages, False)
    if messages[0]["role"] == "assistant":
        raise ValueError("the conversation begins with the assistant: it has no prompt to answer")
    spans = _spans_by_marks(messages, render, special_tokens, text)
    if spans is None:
        spans = _spans_by_prefixes(messages, render, special_tokens, text)
    return text, spans


def _spans_by_marks(
    messages: list[Message], render: Render, special_tokens: Sequence[str], text: str
) -> list[tuple[int, int]] | None:
    """The spans from one rendering whose assistant contents are marked, which long conversations need to be quick.

    `None` where the marks change the rendering, or where the text before the turns is not always the same.
    """
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers or any(mark in text for mark in _MARKS):
        return None
    marked = [_mark(message) if message["role"] == "assistant" else message for message in messages]
    first, *rest = render(marked, False).split(_MARKS[0])
    pieces = [piece.split(_MARKS[1]) for piece in rest]
    if len(pieces) != len(answers) or any(len(piece) != 2 for piece in pieces):
        return None
    if first + "".join(content + after for content, after in pieces) != text:
        return None
    lead = len(first) - len(render(messages[: answers[0]], True))  # what a template writes after the prompt, a space
    spans, position = [], len(first)
    for content, after in pieces:
        start, end = position - lead, position + len(content)
        if lead < 0 or text[start:position] != first[len(first) - lead :]:
            return None
        closing = next((token for token in special_tokens if token and after.startswith(token)), "")
        if not closing and after.strip():
            return None
        spans.append((start, end + len(closing)))
        position = end + len(after)
    return spans


def _mark(message: Message) -> Message:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": f"{_MARKS[0]}{content}{_MARKS[1]}"}
    texts = [{"type": "text", "text": mark} for mark in _MARKS]
    return {**message, "content": [texts[0], *content, texts[1]]}


def _spans_by_prefixes(
    messages: list[Message], render: Render, special_tokens: Sequence[str], text: str
) -> list[tuple[int, int]]:
    """The spans from a rendering of each beginning of the conversation."""
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(messages[:index], True)
        answered = text if index + 1 == len(messages) else render(messages[: index + 1], False)
        if not (text.startswith(answered) and answered.startswith(prompt)):
            raise ValueError(
                f"the chat template renders turn {index} differently at the end of a conversation and inside it, so "
                "its assistant turns cannot be found: use a template whose renderings are prefixes of each other"
            )
        spans.append((len(prompt), len(prompt) + _end_of_turn(answered[len(prompt) :], special_tokens)))
    return spans


def _end_of_turn(turn: str, special_tokens: Sequence[str]) -> int:
    stripped = turn.rstrip()
    if any(token and stripped.endswith(token) for token in special_tokens):
        return len(stripped)
    return len(turn)


def supervised_spans(messages: Sequence[Message], spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans of the assistant's turns, without turns of weight 0.

    Raises:
        ValueError: A weight is neither 0 nor 1, or is given to a turn of another role.
    """
    weights = []
    for index, message in enumerate(messages):
        weight, is_answer = message.get("weight"), message["role"] == "assistant"
        if weight not in (None, 0, 1) or (weight and not is_answer):
            raise ValueError(
                f"message {index} of the role {message['role']!r} has the weight {weight!r}: answers of the assistant "
                "have 1 (learnt) or 0, others none"
            )
        if is_answer:
            weights.append(weight)
    return [span for span, weight in zip(spans, weights, strict=True) if weight != 0]


def check_messages(messages: Any) -> None:
    """Raises `ValueError` unless `messages` is a list of turns, each with a role and a content."""
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(f"a conversation is a list of messages with at least one, got {messages!r:.200}")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise ValueError(f"message {index} must have 'role' and 'content', got {message!r:.200}")


def media_of_conversation(messages: Sequence[Message], given: Any, kind: str) -> Any:
    """The images or videos (`kind`) of a conversation: those in its content parts, or those given beside it.

    Raises:
        ValueError: They were given in both ways.
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
