"""What is wrong with a file of instruction records, and where."""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from owl2.processing import Owl2Processor, load_image, load_video

from .formats import Problem, ProblemKind, RecordFile
from .formats.media import is_web_address
from .records import Conversation


class Finding(NamedTuple):
    """A problem of one record.

    Attributes:
        record: its number, from 0.
        line: in which it begins, from 1.
    """

    record: int
    line: int
    kind: ProblemKind
    text: str


@dataclass
class Summary:
    """What a check saw.

    Attributes:
        records: read so far.
        faulty: records with problems.
        kinds: number of problems of each kind.
        unopened: web addresses, whose images and videos were not opened.
    """

    records: int = 0
    faulty: int = 0
    kinds: Counter[ProblemKind] = field(default_factory=Counter)
    unopened: int = 0


class RecordCheck:
    """Checks the records of a file one by one.

    Args:
        records: the file.
        open_media: also read every image whole, and a frame of every video.
        processor: also encode every conversation; a video counts as `num_frames` frames.
        max_length: most tokens of a conversation, visual rows included; needs the processor.

    Raises:
        ValueError: `max_length` without `processor`, or below 1.
    """

    def __init__(
        self,
        records: RecordFile,
        open_media: bool = False,
        processor: Owl2Processor | None = None,
        max_length: int | None = None,
    ) -> None:
        if max_length is not None and (processor is None or max_length < 1):
            raise ValueError(f"max_length={max_length} must be at least 1, and needs a model to count the tokens")
        self.records, self.open_media, self.processor, self.max_length = records, open_media, processor, max_length
        self.summary = Summary()
        self._opened: dict[str, Problem | None] = {}  # images are in many records

    def __iter__(self) -> Iterator[Finding]:
        """Every problem in the order of the file; `summary` follows."""
        self.summary = Summary()
        for index in range(len(self.records)):
            problems = self._problems(index)
            self.summary.records += 1
            self.summary.faulty += bool(problems)
            for problem in problems:
                self.summary.kinds[problem.kind] += 1
                yield Finding(index, self.records.line(index), *problem)

    def _problems(self, index: int) -> list[Problem]:
        conversation, problems = self.records.examine(index)
        if conversation is None:
            return problems
        if self.open_media:
            problems += self._media_problems(conversation)
        if self.processor is not None:
            problems += _encoding_problems(conversation, self.processor, self.max_length)
        return problems

    def _media_problems(self, conversation: Conversation) -> list[Problem]:
        sources = [(source, "image") for source in conversation.images]
        sources += [(part["path"], "video") for part in _parts(conversation) if part["type"] == "video"]
        problems = []
        for source, kind in sources:
            if is_web_address(source):
                self.summary.unopened += 1
                continue
            if source not in self._opened:
                self._opened[source] = _problem_of_image(source) if kind == "image" else _problem_of_video(source)
            problems.append(self._opened[source])
        return [problem for problem in problems if problem is not None]


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


def _encoding_problems(conversation: Conversation, processor: Owl2Processor, max_length: int | None) -> list[Problem]:
    """Whether the conversation can be encoded, something is learnt, and it is not too long."""
    try:
        length = len(encode_unopened(conversation, processor)["input_ids"])
    except ValueError as error:
        return [Problem(ProblemKind.NOT_ENCODED, str(error))]
    if max_length is not None and length > max_length:
        return [Problem(ProblemKind.TOO_LONG, f"{length} tokens, over {max_length}")]
    return []


def encode_unopened(conversation: Conversation, processor: Owl2Processor) -> dict[str, Any]:
    """The conversation encoded for training without its pixels; a video is as long as its `num_frames` images.

    Raises:
        ValueError: it cannot be encoded, or no token is supervised.
    """
    messages = []
    for message in conversation.messages:
        content = []
        for part in message["content"]:
            content += [{"type": "image"}] * processor.num_frames if part["type"] == "video" else [part]
        messages.append({"role": message["role"], "content": content})
    return processor.encode_conversation(messages, with_pixels=False)
