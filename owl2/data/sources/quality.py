"""Opinion scores of images and videos: KonIQ-10k, SPAQ, KADID-10k, AVA, LSVQ, and the JSON of Q-Align and DeQA-Score.

A CSV with a heading, JSON, JSON lines, or the `AVA.txt` of AVA. The columns are found by the names that these sets use:

| set | file | image | score | deviation |
|---|---|---|---|---|
| KonIQ-10k | koniq10k_scores_and_distributions.csv | image_name | MOS | SD |
| SPAQ | "MOS and Image attribute scores" saved as CSV | Image name | MOS | - |
| KADID-10k | dmos.csv | dist_img | dmos | the root of var |
| AVA | AVA.txt | second column, and .jpg | mean of the counts of 1 to 10 | of the counts |
| LSVQ | LSVQ_whole_train.csv | name, and .mp4 | mos | - |
| Q-Align, DeQA-Score | train_koniq.json | image | gt_score | std |
"""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from owl2.data.annotations import AnyPath, Row, image_path, line_rows, rows
from owl2.data.opinions import Opinion, level_of, level_probabilities, opinion_in_levels
from owl2.data.records import Conversation

IMAGE_COLUMNS = ("image", "image_name", "Image name", "dist_img", "img_path", "name", "file")
SCORE_COLUMNS = ("score", "gt_score", "MOS", "mos", "dmos")
DEVIATION_COLUMNS = ("deviation", "std", "SD", "sd")
VARIANCE_COLUMNS = ("var",)
VIDEO_ENDINGS = (".avi", ".mkv", ".mov", ".mp4", ".webm")

_AVA_COUNTS = 10


class OpinionRow(NamedTuple):
    """One image or video with what people said of it, in the scale of its set.

    Attributes:
        name: The name in the file; `path` is that of the image or video.
        deviation: None where the set does not give it.
    """

    name: str
    path: str
    score: float
    deviation: float | None

    @property
    def is_video(self) -> bool:
        return self.path.lower().endswith(VIDEO_ENDINGS)


def read_opinions(annotations: AnyPath, images: AnyPath) -> Iterator[OpinionRow]:
    """The rows of a file in its order.

    Args:
        annotations: `.csv`, `.json`, `.jsonl`, or AVA's `.txt`.
        images: The folder that the names are relative to.

    Raises:
        ValueError: A broken record, by file and number; no column that can be the image or the score.
    """
    for row in _rows(Path(annotations)):
        name = _text(row, IMAGE_COLUMNS)
        if not Path(name).suffix:
            name += ".mp4"  # LSVQ names its videos without
        yield OpinionRow(name, image_path(images, name, row), _number(row, SCORE_COLUMNS), _deviation(row))


def conversations(annotations: AnyPath, images: AnyPath) -> Iterator[Conversation]:
    """Each image with the question for its quality and the level as the answer, in the way of Q-Align.

    The levels are fifths of the range from the lowest to the highest score of the file. The answer carries the
    distribution over the levels too, for `quality` in a recipe.

    Raises:
        ValueError: As `read_opinions`; all scores are equal.
    """
    return opinion_conversations(annotations, images, "quality")


def opinion_conversations(annotations: AnyPath, images: AnyPath, aspect: str) -> Iterator[Conversation]:
    """Conversations about any aspect, as in `conversations`."""
    scores = [row.score for row in read_opinions(annotations, images)]
    for number, row in enumerate(read_opinions(annotations, images), start=1):
        opinion = opinion_in_levels(row.score, row.deviation, min(scores), max(scores))
        yield _conversation(f"{Path(annotations).stem}-{number}", row, opinion, aspect)


def _conversation(name: str, row: OpinionRow, opinion: Opinion, aspect: str) -> Conversation:
    medium = "video" if row.is_video else "image"
    shown: dict[str, Any] = {"type": "video", "path": row.path} if row.is_video else {"type": "image"}
    question = {"type": "text", "text": f"How would you rate the {aspect} of this {medium}?\n"}
    answer = f"The {aspect} of the {medium} is {level_of(opinion)}."
    return Conversation(
        name,
        [
            {"role": "user", "content": [question, shown]},
            {
                "role": "assistant",
                "content": [{"type": "text", "text": answer}],
                "opinion": [*level_probabilities(opinion), opinion.score, opinion.deviation or 0.0],
            },
        ],
        () if row.is_video else (row.path,),
    )


def _rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".json":
        yield from rows(path)
    elif path.suffix == ".jsonl":
        yield from (row for _, row in line_rows(path))
    elif path.suffix == ".csv":
        yield from _csv_rows(path)
    elif path.suffix == ".txt":
        yield from _ava_rows(path)
    else:
        raise ValueError(f"{path} is neither .csv nor .json, .jsonl or AVA's .txt")


def _csv_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, values in enumerate(csv.DictReader(file), start=1):
                row = Row(dict(values), f"{path}, record {number}")
                if None in values or None in values.values():
                    raise row.error("it has another number of columns than the heading")
                yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV in UTF-8: {error}") from error


def _ava_rows(path: Path) -> Iterator[Row]:
    """Rows of `AVA.txt`: index, image, counts of the votes 1 to 10, tags and challenge."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            columns = line.split()
            row = Row({}, f"{path}, record {number}")
            counts = columns[2 : 2 + _AVA_COUNTS]
            if len(counts) < _AVA_COUNTS or not all(count.isdecimal() for count in counts) or not any(map(int, counts)):
                raise row.error(f"expected index, image and {_AVA_COUNTS} counts of votes, found {line.strip()!r:.80}")
            row.values = _of_votes(columns[1], [int(count) for count in counts])
            yield row


def _of_votes(name: str, counts: list[int]) -> dict[str, Any]:
    total = sum(counts)
    mean = sum(vote * count for vote, count in enumerate(counts, start=1)) / total
    variance = sum((vote - mean) ** 2 * count for vote, count in enumerate(counts, start=1)) / total
    return {"image": f"{name}.jpg", "score": mean, "deviation": math.sqrt(variance)}


def _text(row: Row, columns: tuple[str, ...]) -> str:
    return row.text(_column(row, columns))


def _column(row: Row, columns: tuple[str, ...]) -> str:
    found = [name for name in columns if name in row.values]
    if not found:
        raise row.error(f"has none of the columns {', '.join(columns)}; it has {sorted(map(str, row.values))!r:.200}")
    return found[0]


def _number(row: Row, columns: tuple[str, ...]) -> float:
    name = _column(row, columns)
    value = row.values[name]
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError as error:
            raise row.error(f"{name!r} is {value!r:.60}, not a number") from error
    return Row({name: value}, row.where).number(name)


def _deviation(row: Row) -> float | None:
    squared = not any(name in row.values for name in DEVIATION_COLUMNS)
    columns = VARIANCE_COLUMNS if squared else DEVIATION_COLUMNS
    if not any(name in row.values for name in columns):
        return None
    value = _number(row, columns)
    if value < 0:
        raise row.error(f"the deviation is {value}, below 0")
    return math.sqrt(value) if squared else value
