"""The meaning of the fields of a record and of its turns: which are read, and which would be lost silently.

A field that is neither read nor of any of the kinds below means nothing to a model, such as `model` or `source`: it is
counted, not reported.
"""

import re
from collections.abc import Iterator
from typing import Any

from owl2.data.problems import ProblemKind, shown

from .record_builder import MEDIA, RecordBuilder, source_in

MEDIA_FIELDS = {kind: (kind, f"{kind}s", f"{kind}_path", f"{kind}_paths") for kind in MEDIA}
"""Fields of a record that hold the sources of its images and videos: one, or a list."""

SYSTEM_FIELDS = ("system", "system_prompt")
"""Fields that hold the text of a system turn, where the turns have none."""

LEARNT_FIELDS = ("weight", "loss", "train", "training", "trainable")
"""Fields of a turn that say whether it is learnt: 0 or false, 1 or true."""

_TURN_FIELDS = {"from", "value", "role", "content", *LEARNT_FIELDS}
_RECORD_FIELDS = {
    "id",
    "conversations",
    "messages",
    *SYSTEM_FIELDS,
    *(name for names in MEDIA_FIELDS.values() for name in names),
}

_TOOLS = "mPLUG-Owl2 calls no tools; write into the turns what is to be read and learnt"
_PREFERENCE = (
    "it is of preference data; keep the answer that is to be learnt as the assistant's turn, or train with TRL"
)
_UNWRITTEN = "it would be dropped; write into the text of the turn what is to be learnt"
_LOST_OF_RECORD = {
    **dict.fromkeys(("tools", "functions", "tool_choice"), _TOOLS),
    **dict.fromkeys(("chosen", "rejected", "rejected_response", "rejected_messages"), _PREFERENCE),
    "history": "write the earlier turns before the others",
    "objects": "write boxes and names into the text of the turns",
}
_LOST_OF_TURN = {
    **dict.fromkeys(("tool_calls", "function_call", "tool_call_id", "tool_call"), _TOOLS),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking", "thought", "refusal"), _UNWRITTEN),
}

_OF_MEDIA = re.compile(r"(?i)image|img|pict|photo|pixel|video|frame|media|audio|speech|sound|wav|visual|screenshot")
_OF_AUDIO = re.compile(r"(?i)audio|speech|sound|wav")
_OF_LEARNING = re.compile(r"(?i)weight|loss|train|mask")
_LOCAL_SOURCE = re.compile(
    r"(?i)(?!https?:).*\.(jpe?g|png|webp|gif|bmp|tiff?|avif|heic|jp2|mp4|avi|mov|mkv|webm|m4v|wav|mp3|flac|ogg|npy)$"
    r"|data:"
)


def read_media_fields(record: dict[str, Any], draft: RecordBuilder) -> None:
    """Takes the sources of images and videos from the record's fields."""
    for kind, names in MEDIA_FIELDS.items():
        given = {name: record[name] for name in names if not _is_empty(record.get(name))}
        for name, value in given.items():
            sources = draft.sources_of(kind, name, value)
            if sources is None or draft.media[kind] in ([], sources):
                draft.media[kind] = sources or draft.media[kind]
            else:
                text = f"{' and '.join(map(repr, given))} name different {kind}s: give them once"
                draft.report(ProblemKind.PLACEHOLDERS, text)


def read_system_field(record: dict[str, Any], draft: RecordBuilder) -> None:
    """Makes the record's system text a system turn, where the turns have none.

    It stands in front; two different texts are a problem.
    """
    for name in SYSTEM_FIELDS:
        value = record.get(name)
        if _is_empty(value):
            continue
        if not isinstance(value, str):
            draft.report(ProblemKind.MALFORMED, f"{name!r} must be a text, got {shown(value)}")
        elif not draft.messages or draft.messages[0]["role"] != "system":
            draft.messages.insert(0, {"role": "system", "content": [{"type": "text", "text": value}]})
            draft.turns_before += 1
        elif draft.messages[0]["content"] != [{"type": "text", "text": value}]:
            text = f"{name!r} ({shown(value)}) and the system turn differ: give one of them"
            draft.report(ProblemKind.NOT_READ, text)


def read_whether_learnt(turn: dict[str, Any], number: int, role: str, draft: RecordBuilder) -> dict[str, int]:
    """`{"weight": 0}` for a turn of the assistant that is not to be learnt, else nothing."""
    said = {name: turn[name] for name in LEARNT_FIELDS if turn.get(name) is not None}
    for name, value in said.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            text = f"turn {number} has {name!r}: {shown(value)}; it is learnt (1, true) or not (0, false)"
            draft.report(ProblemKind.MALFORMED, text)
            return {}
    if len(set(map(bool, said.values()))) > 1:
        draft.report(ProblemKind.MALFORMED, f"turn {number} is and is not to be learnt: {shown(said)}")
    elif any(said.values()) and role in ("system", "user"):
        text = f"turn {number} of the {role} is to be learnt ({shown(said)}), but only the assistant's turns are"
        draft.report(ProblemKind.NOT_READ, text)
    elif said and role == "assistant" and not any(said.values()):
        return {"weight": 0}
    return {}


def report_unread_of_turn(turn: dict[str, Any], number: int, draft: RecordBuilder) -> None:
    """Reports the fields of a turn that say something about it and are not read."""
    for name, value in turn.items():
        if name in _TURN_FIELDS or _is_empty(value):
            continue
        if name in _LOST_OF_TURN:
            draft.report(ProblemKind.NOT_READ, f"turn {number} has {name!r}: {_LOST_OF_TURN[name]}")
        elif _OF_LEARNING.search(name):
            text = f"turn {number} has {name!r}: {shown(value)}; write 'weight': 0 for a turn that is not to be learnt"
            draft.report(ProblemKind.NOT_READ, text)
        elif _OF_MEDIA.search(name) and any(_texts_in(value)):
            text = f"turn {number} has {name!r}: {shown(value)}; {_where_to_write(name)}"
            draft.report(ProblemKind.NOT_READ, text)
        else:
            draft.unread.append(name)


def report_unread_of_record(record: dict[str, Any], draft: RecordBuilder) -> None:
    """Reports the fields of a record that say something and are not read; to be called after its media were taken."""
    has_media = any(draft.media.values())
    for name, value in record.items():
        if name in _RECORD_FIELDS or _is_empty(value):
            continue
        if name in _LOST_OF_RECORD:
            draft.report(ProblemKind.NOT_READ, f"{name!r} is not read: {_LOST_OF_RECORD[name]}")
        elif _OF_MEDIA.search(name) and _names_media(value, has_media):
            text = f"{name!r} is not read: {shown(value)}; {_where_to_write(name)}"
            draft.report(ProblemKind.NOT_READ, text)
        else:
            draft.unread.append(name)


def _where_to_write(name: str) -> str:
    if _OF_AUDIO.search(name):
        return "mPLUG-Owl2 takes no audio"
    return "name images in the record's 'images', videos in 'videos', with <image> or <video> where each stands"


def _names_media(value: Any, has_media: bool) -> bool:
    """Whether a value names what would be lost.

    Any text does where the record has no other image or video. Otherwise it may be about those, such as an identifier
    or the address that they came from, unless it ends as the name of a file does.
    """
    texts = list(_texts_in(value))
    return any(_LOCAL_SOURCE.match(text.strip()) for text in texts) or (bool(texts) and not has_media)


def _texts_in(value: Any) -> Iterator[str]:
    """Texts that are not empty in a value, its items and the values of its objects."""
    if isinstance(value, str) and value.strip():
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)
    elif isinstance(value, dict):
        yield from _texts_in(source_in(value) or list(value.values()))


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value == []
