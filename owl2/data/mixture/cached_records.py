"""Sources as random access: from an entry of the cache, or some records in memory.

Offsets, sizes and records are memory maps, which processes share: opening reads none of them, and the memory of a
process does not grow with the number of records.
"""

import json
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from owl2.data.formats import RecordFile
from owl2.data.formats.record_offsets import RecordOffsets
from owl2.data.problems import Rejected
from owl2.data.records import Conversation
from owl2.files import map_file, read_json_object

from .record_size import RecordSize


def valid_records(records: RecordFile, rejected: Rejected) -> Iterator[tuple[int, Conversation]]:
    """Number and conversation of each valid record; the others are added to `rejected`."""
    for number in range(len(records)):
        conversation, problems = records.examine(number)
        if conversation is None:
            rejected.add(f"{records.path}, line {records.line(number)}", problems)
        else:
            yield number, conversation


class StoredConversations:
    """Conversations of an entry that `conversations_entry` made."""

    def __init__(self, entry: Path) -> None:
        self.entry, self.rejected = entry, _left_out_of(entry)
        self._offsets = np.load(entry / "offsets.npy", mmap_mode="r")
        self._sizes = np.load(entry / "sizes.npy", mmap_mode="r")
        self._buffer = map_file(entry / "records.jsonl")

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, number: int) -> Conversation:
        start, end = self._offsets[number : number + 2].tolist()
        name, messages, images = json.loads(self._buffer[start:end])
        return Conversation(name, messages, tuple(images))

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredConversations, (self.entry,)

    def total_size(self) -> RecordSize:
        return _total(self._sizes)

    def size(self, number: int) -> RecordSize:
        return RecordSize(*self._sizes[number].tolist())


class StoredRecordFile:
    """The valid records of a file, as listed in an entry that `record_file_entry` made."""

    def __init__(self, entry: Path, file: Path, images: Path | None) -> None:
        self._arguments = entry, file, images
        self._numbers = np.load(entry / "numbers.npy", mmap_mode="r")
        self._sizes = np.load(entry / "sizes.npy", mmap_mode="r")
        self._records = RecordFile(file, images, spans=RecordOffsets(*np.load(entry / "spans.npy", mmap_mode="r")))
        self.rejected = _left_out_of(entry)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Conversation:
        return self._records[int(self._numbers[number])]

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredRecordFile, self._arguments

    def total_size(self) -> RecordSize:
        return _total(self._sizes)

    def size(self, number: int) -> RecordSize:
        return RecordSize(*self._sizes[number].tolist())


class FirstRecords:
    """The first records of a source, held in memory."""

    def __init__(self, conversations: Sequence[Conversation], rejected: Rejected) -> None:
        self.conversations, self.rejected = conversations, rejected

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, number: int) -> Conversation:
        return self.conversations[number]

    def size(self, number: int) -> RecordSize:
        return size_of(self.conversations[number])

    def total_size(self) -> RecordSize:
        return reduce(RecordSize.plus, map(size_of, self.conversations), RecordSize(0, 0, 0))


def _total(sizes: np.ndarray) -> RecordSize:
    return RecordSize(*sizes.sum(0, dtype=np.int64).tolist())


def _left_out_of(entry: Path) -> Rejected:
    return Rejected(**read_json_object(entry / "about.json", "what an entry was made from")["rejected"])


def size_of(conversation: Conversation) -> RecordSize:
    """The size of a conversation by its texts, images and videos."""
    parts = [part for message in conversation.messages for part in message["content"]]
    text_bytes = sum(len(part["text"].encode()) for part in parts if part["type"] == "text")
    videos = sum(part["type"] == "video" for part in parts)
    answers = sum(each["role"] == "assistant" and each.get("weight") != 0 for each in conversation.messages)
    return RecordSize(text_bytes, len(conversation.images), videos, answers)
