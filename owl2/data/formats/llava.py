"""Conversations as LLaVA keeps them.

`{"id", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", ...}]}`, with
a list of images where there are several, and `video` likewise.
"""

from typing import Any

from owl2.data.problems import ProblemKind, shown

from .record_builder import Part, RecordBuilder, parts_of_text

ROLES = {"system": "system", "human": "user", "gpt": "assistant"}


def read_llava(record: dict[str, Any], draft: RecordBuilder) -> None:
    """Fills a draft from a LLaVA record."""
    turns = record["conversations"]
    if not isinstance(turns, list) or not turns:
        draft.report(ProblemKind.MALFORMED, f"'conversations' must be a list of turns, got {shown(turns)}")
        return
    for number, turn in enumerate(turns, 1):
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(speaker, str) or not isinstance(text, str):
            draft.report(ProblemKind.MALFORMED, f"turn {number} must have the texts 'from' and 'value': {shown(turn)}")
            continue
        content = _image_first(parts_of_text(text))
        draft.messages.append({"role": ROLES.get(speaker, speaker), "content": content})
    draft.take_media("image", "image", record.get("image"))
    draft.take_media("video", "video", record.get("video"))


def _image_first(parts: list[Part]) -> list[Part]:
    """A single image behind its question goes in front of it, as in the published prompt; LLaVA shuffles the two."""
    media = [part for part in parts if part["type"] != "text"]
    if len(media) == 1 and parts[-1] is media[0]:
        return [parts[-1], *parts[:-1]]
    return parts
