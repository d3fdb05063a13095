"""How long conversations are: turns, images, characters and tokens, by source."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from owl2.data.mixture.cached_records import valid_records
from owl2.recipes import recipe_names

from .check import encode_unopened
from .formats import Problem, ProblemKind, RecordFile
from .mixture import Mixture, load_mixture_recipe
from .problems import Rejected
from .records import Conversation
from .skipped import NO_LIMIT

if TYPE_CHECKING:
    from owl2.processing import Owl2Processor

COUNTED = ("turns", "images", "videos", "question characters", "answer characters")
COUNTED_WITH_A_MODEL = ("tokens", "supervised tokens")
"""A turn is a question with its answer. Visual rows are tokens; a video counts as the most frames taken of it."""


@dataclass
class SourceStats:
    """What was counted of a source.

    Attributes:
        values: Values by name, one for each record.
        rejected: Records that are invalid or cannot be encoded.
    """

    values: dict[str, "array[int]"] = field(default_factory=dict)
    rejected: Rejected = field(default_factory=Rejected)

    @property
    def records(self) -> int:
        return len(self.values[COUNTED[0]]) if self.values else 0


class ValueSummary(NamedTuple):
    """A value, summarized over records."""

    mean: float
    median: float
    percentile_95: float
    most: int
    total: int


def is_recipe(path: Path) -> bool:
    """Whether it is the recipe of a mixture, by its file or its name, and not a file of records."""
    return path.suffix in (".yaml", ".yml") or (path.as_posix() in recipe_names() and not path.is_file())


def gather_stats(
    path: Path, root: Path | None = None, processor: "Owl2Processor | None" = None
) -> dict[str, SourceStats]:
    """Counts every record of a file of records, or of the first epoch of a mixture, once.

    Args:
        path: A file of records, or the recipe of a mixture (`.yaml`).
        root: Folder of a file's images and videos, its own by default. They are not opened.
        processor: Processor; with it, tokens are counted too.

    Returns:
        By source; a file of records is one.

    Raises:
        ValueError: The file or a file of the mixture is missing or broken; no record is valid; a root is given with a
            recipe, which has its own.
    """
    if not is_recipe(path):
        rejected = Rejected()
        records = RecordFile(path, root)
        numbered = ((f"{path}, line {records.line(number)}", each) for number, each in valid_records(records, rejected))
        return {path.name: _count(numbered, processor, rejected, path.name)}
    if root is not None:
        raise ValueError(f"{path} is a recipe, which names the folders of its images itself: omit --root")
    mixture = Mixture(load_mixture_recipe(path), skip_limit=NO_LIMIT)
    found = {}
    for source in mixture.sources:
        records_of_source = mixture.records(source.name)
        used = (records_of_source[number] for number in mixture.order(source.name).records())
        named = ((f"record {each.id}", each) for each in used)
        found[source.name] = _count(named, processor, records_of_source.rejected, source.name)
    return found


def summarize(stats: SourceStats) -> dict[str, ValueSummary]:
    """Every value of a source in five numbers; values that are 0 everywhere are left out."""
    arrays = {name: np.frombuffer(values, np.int64) for name, values in stats.values.items()}
    return {name: _summary(values) for name, values in arrays.items() if values.any()}


def together(sources: Mapping[str, SourceStats]) -> SourceStats:
    """All sources as one."""
    names = next(iter(sources.values())).values
    joined = {name: array("q", chain.from_iterable(each.values[name] for each in sources.values())) for name in names}
    return SourceStats(joined)


def _count(
    conversations: Iterable[tuple[str, Conversation]], processor: "Owl2Processor | None", rejected: Rejected, name: str
) -> SourceStats:
    names = COUNTED if processor is None else COUNTED + COUNTED_WITH_A_MODEL
    stats = SourceStats({each: array("q") for each in names}, rejected)
    for where, conversation in conversations:
        try:
            counts = [*_counts(conversation), *_token_counts(conversation, processor)]
        except ValueError as error:
            rejected.add(where, [Problem(ProblemKind.NOT_ENCODED, str(error))])
            continue
        for values, count in zip(stats.values.values(), counts, strict=True):
            values.append(count)
    if not stats.records:
        raise ValueError(f"none of the {rejected.records} records of {name} is valid; first {rejected.named[0]}")
    return stats


def _counts(conversation: Conversation) -> Iterator[int]:
    parts = [(message["role"], part) for message in conversation.messages for part in message["content"]]
    characters = {True: 0, False: 0}
    for role, part in parts:
        if part["type"] == "text":
            characters[role == "assistant"] += len(part["text"])
    yield sum(message["role"] == "assistant" for message in conversation.messages)
    yield len(conversation.images)
    yield sum(part["type"] == "video" for _, part in parts)
    yield characters[False]
    yield characters[True]


def _token_counts(conversation: Conversation, processor: "Owl2Processor | None") -> Iterator[int]:
    if processor is not None:
        from owl2.labels import IGNORE_INDEX

        sample = encode_unopened(conversation, processor)
        yield len(sample["input_ids"])
        yield sum(label != IGNORE_INDEX for label in sample["labels"])


def _summary(values: np.ndarray) -> ValueSummary:
    median, percentile_95 = np.percentile(values, (50, 95)).tolist()
    return ValueSummary(float(values.mean()), median, percentile_95, int(values.max()), int(values.sum()))
