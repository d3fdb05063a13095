"""Reads a record: its form by its keys, its turns, its media, and what of it is not read."""

from collections.abc import Sequence
from typing import Any

from owl2.data.problems import ProblemKind, shown

from .chat_messages import read_chat_turns
from .fields import read_media_fields, read_system_field, report_unread_of_record
from .llava import read_llava_turns
from .record_builder import MEDIA, RecordBuilder

FORMS = ("conversations", "messages")

_OTHER_FORMS = {
    "instruction": "Alpaca's form",
    "prompt": "TRL's form of a prompt and a completion",
    "query": "the form of a query and a response",
    "question": "a question with its answer",
    "input": "an input with its output",
    "caption": "an image with its caption, which stage 1 learns from",
    "text": "plain text",
}


def holds_records(whole: dict[str, Any], fields: Sequence[str]) -> bool:
    """Whether an object holds records and nothing else that could be one: a single list of them, or one a key.

    Args:
        fields: Names, one of which every record has.
    """
    lists = [value for value in whole.values() if isinstance(value, list) and any(isinstance(x, dict) for x in value)]
    objects = [value for value in whole.values() if isinstance(value, dict)]
    if len(lists) == 1 and not objects:
        return all(isinstance(each, dict) for each in lists[0]) and any(field in lists[0][0] for field in fields)
    return not lists and len(objects) == len(whole) and all(any(field in each for field in fields) for each in objects)


def read_record(record: dict[str, Any], name: str) -> RecordBuilder:
    """A draft of the record's conversation, with all that is wrong with it but the files of its media.

    Args:
        name: The id of the record.
    """
    draft = RecordBuilder(name)
    forms = [form for form in FORMS if form in record]
    if len(forms) != 1:
        other = next((f"; it looks like {text}" for key, text in _OTHER_FORMS.items() if key in record), "")
        text = f"a record has either 'conversations' or 'messages', this one has {shown(list(record))}"
        draft.report(ProblemKind.MALFORMED, text + ("" if forms else other))
        return draft
    turns = record[forms[0]]
    if not isinstance(turns, list) or not turns:
        draft.report(ProblemKind.MALFORMED, f"{forms[0]!r} must be a list of turns, got {shown(turns)}")
        return draft
    carried: dict[str, list[str]] = {}
    if isinstance(turns[0], dict) and "role" in turns[0] and "from" not in turns[0]:
        carried = read_chat_turns(turns, draft)
    elif forms[0] == "conversations" or (isinstance(turns[0], dict) and "from" in turns[0]):
        read_llava_turns(turns, draft)
    else:
        carried = read_chat_turns(turns, draft)
    read_system_field(record, draft)
    read_media_fields(record, draft)
    for kind in MEDIA:
        if not carried.get(kind):
            continue
        if draft.media[kind]:
            counts = f"{len(carried[kind])} {kind}s in the messages and {len(draft.media[kind])} outside them"
            draft.report(ProblemKind.PLACEHOLDERS, f"{counts}: give them once")
        else:
            draft.media[kind] = carried[kind]
    report_unread_of_record(record, draft)
    return draft
