"""Conversations in the form of LLaVA's files.

`{"id", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", ...}]}`, with
a list of images where there are several, and `video` likewise.
"""

from typing import Any

from owl2.data.problems import ProblemKind, shown

from .fields import read_whether_learnt, report_unread_of_turn
from .placeholders import Part, foreign_placeholder, parts_of_text
from .record_builder import RecordBuilder

ROLES = {"system": "system", "human": "user", "gpt": "assistant"}


def read_llava_turns(turns: list[Any], draft: RecordBuilder) -> None:
    """Fills a draft from the turns of a LLaVA record."""
    for number, turn in enumerate(turns, 1):
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(speaker, str) or not isinstance(text, str):
            draft.report(ProblemKind.MALFORMED, f"turn {number} must have the texts 'from' and 'value': {shown(turn)}")
            continue
        if foreign := foreign_placeholder(text):
            draft.report_foreign(number, foreign)
        role = ROLES.get(speaker, speaker)
        learnt = read_whether_learnt(turn, number, role, draft)
        report_unread_of_turn(turn, number, draft)
        draft.messages.append({"role": role, "content": _image_first(parts_of_text(text)), **learnt})


def _image_first(parts: list[Part]) -> list[Part]:
    """A single image behind its question goes in front of it, as in the published prompt; LLaVA shuffles the two."""
    media = [part for part in parts if part["type"] != "text"]
    if len(media) == 1 and parts[-1] is media[0]:
        return [parts[-1], *parts[:-1]]
    return parts
