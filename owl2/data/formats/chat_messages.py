"""Chat messages, in which a content is a text with placeholders, or a list of parts.

`{"messages": [{"role": "user", "content": "<image>What?"}, ...], "images": ["a.jpg"], "videos": []}`, or
`{"messages": [{"role": "user", "content": [{"type": "image", "path": "a.jpg"}, {"type": "text", "text": "What?"}]}]}`
"""

from typing import Any

from owl2.data.problems import ProblemKind, shown

from .fields import read_whether_learnt, report_unread_of_turn
from .placeholders import Part, foreign_placeholder, parts_of_text, placeholder_in
from .record_builder import MEDIA, RecordBuilder, source_in


def read_chat_turns(turns: list[Any], draft: RecordBuilder) -> dict[str, list[str]]:
    """Fills a draft from chat messages.

    Returns:
        Sources of the images and of the videos that their parts carry.
    """
    carried: dict[str, list[str]] = {kind: [] for kind in MEDIA}
    for number, message in enumerate(turns, 1):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str | list):
            text = f"turn {number} must have a 'role' and a 'content' (a text or parts): {shown(message)}"
            draft.report(ProblemKind.MALFORMED, text)
            continue
        if isinstance(content, str) and (foreign := foreign_placeholder(content)):
            draft.report_foreign(number, foreign)
        parts = parts_of_text(content) if isinstance(content, str) else _read_parts(content, number, draft, carried)
        learnt = read_whether_learnt(message, number, role, draft)
        report_unread_of_turn(message, number, draft)
        draft.messages.append({"role": role, "content": parts, **learnt})
    return carried


def _read_parts(parts: list[Any], number: int, draft: RecordBuilder, carried: dict[str, list[str]]) -> list[Part]:
    """The parts of a content, with what they carry taken out of them."""
    read: list[Part] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            if token := placeholder_in(part["text"]):
                text = f"turn {number} has {token} in a text part: make it a part of type {token[2:-2]!r}"
                draft.report(ProblemKind.PLACEHOLDERS, text)
            elif foreign := foreign_placeholder(part["text"], is_part=True):
                draft.report_foreign(number, foreign)
            read.append({"type": "text", "text": part["text"]})
        elif kind in MEDIA or kind == "image_url":
            kind, source = ("image", _address(part)) if kind == "image_url" else (kind, source_in(part, kind))
            read.append({"type": kind})
            if isinstance(source, str):
                carried[kind].append(source)
            elif source is not None:
                draft.report(ProblemKind.MALFORMED, f"turn {number} has a part whose {kind} is not text: {shown(part)}")
        else:
            text = f"turn {number} has a part that is neither text, image nor video: {shown(part)}"
            draft.report(ProblemKind.MALFORMED, text)
    return read


def _address(part: Part) -> Any:
    """The address of OpenAI's `{"type": "image_url", "image_url": {"url": ...}}`, which may be a data URL."""
    value = part.get("image_url")
    return value.get("url", value) if isinstance(value, dict) else value
