"""Chat messages, in which a content is a text with placeholders, or a list of parts.

`{"messages": [{"role": "user", "content": "<image>What?"}, ...], "images": ["a.jpg"], "videos": []}`, or
`{"messages": [{"role": "user", "content": [{"type": "image", "path": "a.jpg"}, {"type": "text", "text": "What?"}]}]}`
"""

from typing import Any

from owl2.data.problems import ProblemKind, shown

from .record_builder import MEDIA, Part, RecordBuilder, parts_of_text, placeholder_in

_SOURCES = ("path", "url", "base64")  # and the kind itself, as transformers has it


def read_chat_messages(record: dict[str, Any], draft: RecordBuilder) -> None:
    """Fills a draft from a record of chat messages."""
    messages = record["messages"]
    if not isinstance(messages, list) or not messages:
        draft.report(ProblemKind.MALFORMED, f"'messages' must be a list of turns, got {shown(messages)}")
        return
    carried: dict[str, list[str]] = {kind: [] for kind in MEDIA}
    for number, message in enumerate(messages, 1):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str | list):
            text = f"turn {number} must have a 'role' and a 'content' (a text or parts): {shown(message)}"
            draft.report(ProblemKind.MALFORMED, text)
            continue
        parts = parts_of_text(content) if isinstance(content, str) else _read_parts(content, number, draft, carried)
        draft.messages.append({"role": role, "content": parts})
    for kind in MEDIA:
        draft.take_media(kind, f"{kind}s", record.get(f"{kind}s"))
        if carried[kind] and draft.media[kind]:
            counts = f"{len(carried[kind])} {kind}s in the messages and {len(draft.media[kind])} outside them"
            draft.report(ProblemKind.PLACEHOLDERS, f"{counts}: give them once")
        elif carried[kind]:
            draft.media[kind] = carried[kind]


def _read_parts(parts: list[Any], number: int, draft: RecordBuilder, carried: dict[str, list[str]]) -> list[Part]:
    """The parts of a content, with what they carry taken out of them."""
    read: list[Part] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            if token := placeholder_in(part["text"]):
                text = f"turn {number} has {token} in a text part: make it a part of type {token[2:-2]!r}"
                draft.report(ProblemKind.PLACEHOLDERS, text)
            read.append({"type": "text", "text": part["text"]})
        elif kind in MEDIA or kind == "image_url":
            kind, source = ("image", _address(part)) if kind == "image_url" else (kind, _source(part, kind))
            read.append({"type": kind})
            if isinstance(source, str):
                carried[kind].append(source)
            elif source is not None:
                draft.report(ProblemKind.MALFORMED, f"turn {number} has a part whose {kind} is not text: {shown(part)}")
        else:
            text = f"turn {number} has a part that is neither text, image nor video: {shown(part)}"
            draft.report(ProblemKind.MALFORMED, text)
    return read


def _source(part: Part, kind: str) -> Any:
    """What a part carries: a path, an address, or base64 (here as a data URL); `None` for a bare placeholder."""
    name = next((name for name in (kind, *_SOURCES) if part.get(name) is not None), None)
    if name == "base64" and isinstance(part[name], str) and not part[name].startswith("data:"):
        return f"data:{kind};base64,{part[name]}"
    return None if name is None else part[name]


def _address(part: Part) -> Any:
    """The address of OpenAI's `{"type": "image_url", "image_url": {"url": ...}}`, which may be a data URL."""
    value = part.get("image_url")
    return value.get("url", value) if isinstance(value, dict) else value
