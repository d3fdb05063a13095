"""Finds what is wrong with the records of a file or of a source of a mixture, and where."""

import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from PIL import Image

from owl2.processing import load_image, load_video
from owl2.processing.control_tokens import LLAMA_CONTROL_TOKENS, control_tokens_in

from .formats import Problem, ProblemKind
from .media import is_web_address
from .records import Conversation

if TYPE_CHECKING:
    from owl2.processing import Owl2Processor

PART = 256
"""Number of records checked before anything is reported; with all their images opened, about a second of work."""


class Examined(Protocol):
    """Records that a check can go through, such as a `RecordFile`.

    Attributes:
        unread: How many of the examined records have a field that is not read, by its name.
    """

    unread: Counter[str]

    def __len__(self) -> int: ...

    def examine(self, index: int) -> tuple[Conversation | None, list[Problem]]:
        """A record and what is wrong with it; `None` for one that is left out of a mixture."""
        ...

    def where(self, index: int) -> str:
        """The place of a record, in words."""
        ...


class RecordFinding(NamedTuple):
    """A problem of one record.

    Attributes:
        record: Its number, from 0.
        where: The file and the line in which it begins, or its name.
    """

    record: int
    where: str
    kind: ProblemKind
    text: str


@dataclass
class CheckSummary:
    """Counts of what a check saw.

    Attributes:
        records: Read so far.
        faulty: Records with problems.
        rejected: Number of them that a mixture leaves out; the others are skipped when they are drawn.
        kinds: Number of problems of each kind.
        unopened: Web addresses, whose images and videos were not opened.
        unread: Number of records with a field that is not read and means nothing to a model, by its name.
    """

    records: int = 0
    faulty: int = 0
    rejected: int = 0
    kinds: Counter[ProblemKind] = field(default_factory=Counter)
    unopened: int = 0
    unread: Counter[str] = field(default_factory=Counter)

    def add(self, other: "CheckSummary") -> None:
        self.records += other.records
        self.faulty += other.faulty
        self.rejected += other.rejected
        self.kinds += other.kinds
        self.unopened += other.unopened
        self.unread += other.unread


class CheckedPart(NamedTuple):
    """Problems of records that follow each other, and what is added to the summary."""

    findings: list[RecordFinding]
    summary: CheckSummary


class RecordCheck:
    """Checks records one by one.

    Args:
        records: Records of a file or a source.
        open_media: Also read every image whole, and a frame of every video.
        processor: Also encode every conversation; a video counts as `num_frames` frames.
        max_length: Most tokens of a conversation, visual rows included; needs the processor.

    Raises:
        ValueError: `max_length` without `processor`, or below 1.
    """

    def __init__(
        self,
        records: Examined,
        open_media: bool = False,
        processor: "Owl2Processor | None" = None,
        max_length: int | None = None,
    ) -> None:
        if max_length is not None and (processor is None or max_length < 1):
            raise ValueError(f"max_length={max_length} must be at least 1, and needs a model to count the tokens")
        self.records, self.open_media, self.processor, self.max_length = records, open_media, processor, max_length
        self.summary = CheckSummary()
        self._opened: dict[str, Problem | None] = {}  # images are in many records

    def __iter__(self) -> Iterator[RecordFinding]:
        """Every problem in the order of the records; `summary` follows."""
        for part in self.parts():
            yield from part.findings

    def parts(self, num_workers: int = 1) -> Iterator[CheckedPart]:
        """All records, `PART` at a time, in their order whatever the number of processes; `summary` follows."""
        self.summary = CheckSummary()
        ranges = [range(start, min(start + PART, len(self.records))) for start in range(0, len(self.records), PART)]
        for part in map(self._part, ranges) if num_workers == 1 else self._in_processes(ranges, num_workers):
            self.summary.add(part.summary)
            yield part

    def _in_processes(self, ranges: list[range], num_workers: int) -> Iterator[CheckedPart]:
        with ProcessPoolExecutor(num_workers, initializer=_begin_work, initargs=(self,)) as pool:
            yield from pool.map(_part_of_worker, ranges)

    def _part(self, numbers: range) -> CheckedPart:
        findings, summary = [], CheckSummary(records=len(numbers))
        self.records.unread.clear()
        for index in numbers:
            conversation, problems = self.records.examine(index)
            if conversation is None:
                summary.rejected += 1
            elif not problems:
                problems = self._problems_inside(conversation, summary)
            summary.faulty += bool(problems)
            summary.kinds.update(problem.kind for problem in problems)
            findings += [RecordFinding(index, self.records.where(index), *problem) for problem in problems]
        summary.unread.update(self.records.unread)
        return CheckedPart(findings, summary)

    def _problems_inside(self, conversation: Conversation, summary: CheckSummary) -> list[Problem]:
        """Problems that are seen only when media are opened or the conversation is encoded."""
        problems = self._media_problems(conversation, summary) if self.open_media else []
        if self.processor is not None:
            problems += _encoding_problems(conversation, self.processor, self.max_length)
        return problems + _control_token_problems(conversation, self.processor)

    def _media_problems(self, conversation: Conversation, summary: CheckSummary) -> list[Problem]:
        sources = [(source, "image") for source in conversation.images]
        sources += [(part["path"], "video") for part in _parts(conversation) if part["type"] == "video"]
        problems = []
        for source, kind in sources:
            if is_web_address(source):
                summary.unopened += 1
                continue
            if source not in self._opened:
                self._opened[source] = _problem_of_image(source) if kind == "image" else _problem_of_video(source)
            problems.append(self._opened[source])
        return [problem for problem in problems if problem is not None]


_check_of_worker: RecordCheck
"""The check of a worker process: it is sent once, not with every part."""


def _begin_work(check: RecordCheck) -> None:
    global _check_of_worker
    _check_of_worker = check


def _part_of_worker(numbers: range) -> CheckedPart:
    return _check_of_worker._part(numbers)


def _parts(conversation: Conversation) -> list[dict[str, Any]]:
    return [part for message in conversation.messages for part in message["content"]]


def _problem_of_image(source: str) -> Problem | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is refused here
            load_image(source)
    except ValueError as error:
        too_large = isinstance(error.__cause__, Image.DecompressionBombError) or "decompression bomb" in str(error)
        return Problem(ProblemKind.OVERSIZED if too_large else ProblemKind.UNREADABLE, str(error))
    return None


def _problem_of_video(source: str) -> Problem | None:
    try:
        load_video(source, num_frames=1)
    except ValueError as error:
        return Problem(ProblemKind.UNREADABLE, str(error))
    return None


def _encoding_problems(conversation: Conversation, processor: "Owl2Processor", max_length: int | None) -> list[Problem]:
    """Whether the conversation can be encoded, something is learnt, and it is not too long."""
    try:
        length = len(encode_unopened(conversation, processor)["input_ids"])
    except ValueError as error:
        return [Problem(ProblemKind.NOT_ENCODED, str(error))]
    if max_length is not None and length > max_length:
        return [Problem(ProblemKind.TOO_LONG, f"{length} tokens, over {max_length}")]
    return []


def _control_token_problems(conversation: Conversation, processor: "Owl2Processor | None") -> list[Problem]:
    """Control tokens in the texts: those of the processor, or else of LLaMA-2."""
    names = LLAMA_CONTROL_TOKENS if processor is None else processor.control_tokens
    found = control_tokens_in(conversation.messages, names)
    text = "would be the token, not its letters: remove it, or learn the letters (data.control_tokens=text in a recipe)"
    return [Problem(ProblemKind.CONTROL_TOKEN, f"turn {turn} has {token!r}, which {text}") for turn, token in found]


def encode_unopened(conversation: Conversation, processor: "Owl2Processor") -> dict[str, Any]:
    """The conversation encoded for training without its pixels; a video is as long as its `num_frames` images.

    Raises:
        ValueError: It cannot be encoded, or no token is supervised.
    """
    messages = []
    for message in conversation.messages:
        content = []
        for part in message["content"]:
            content += [{"type": "image"}] * processor.num_frames if part["type"] == "video" else [part]
        messages.append({**message, "content": content})
    return processor.encode_conversation(messages, with_pixels=False)
