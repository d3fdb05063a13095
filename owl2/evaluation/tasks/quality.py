"""Image quality on KonIQ, SPAQ, KADID, AVA, LSVQ or a set of one's own: SRCC and PLCC of the scores with the opinions.

The question, the frame and the five level words are those in which Q-Align and DeQA-Score evaluate (`evaluation` of
`owl2.quality.protocols`): the softmax over the level words, weighted 5 to 1.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from owl2.data.opinions import LEVEL_VALUES, LEVELS
from owl2.data.sources.quality import OpinionRow, read_opinions
from owl2.evaluation.task import Clip, Decoding, Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.correlation import pearson, spearman

SETS = ("koniq", "spaq", "kadid", "ava", "lsvq", "own")
_ENDINGS = (".csv", ".json", ".jsonl", ".txt")
_ASPECTS = ("quality", "aesthetics")
_MOST_FRAMES = 24  # of a video, one a second


def _annotations(root: Path, split: str) -> Path:
    """The first existing file `quality/<set>` with one of the endings."""
    files = [root / "quality" / f"{split}{ending}" for ending in _ENDINGS]
    return next((file for file in files if file.is_file()), files[0])


def _files(root: Path, split: str) -> list[Path]:
    return [_annotations(root, split)]


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    aspect = prompt
    folder = root / "quality" / split
    return [_sample(row, aspect) for row in read_opinions(_annotations(root, split), folder)]


def _sample(row: OpinionRow, aspect: str) -> Sample:
    medium = "video" if row.is_video else "image"
    path = Path(row.path)
    return Sample(
        id=row.name,
        prompt=f"USER: How would you rate the {aspect} of this {medium}?\n<|image|> ASSISTANT: "
        f"The {aspect} of the {medium} is",
        gold=row.score,
        images=() if row.is_video else (path,),
        clip=Clip(path, _MOST_FRAMES, spacing="one_a_second") if row.is_video else None,
        choices=tuple(f" {level}" for level in LEVELS),
        uses_chat_template=False,
    )


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    scores = [_weighted(record.ranking.log_probabilities) for record in records]
    opinions = [record.gold for record in records]
    summary = {"srcc": spearman(scores, opinions), "plcc": pearson(scores, opinions)}
    return Scores(scores, [None] * len(records), summary)


def _weighted(log_probabilities: Sequence[float]) -> float:
    """The mean of the levels under the softmax over their tokens alone."""
    highest = max(log_probabilities)
    parts = [math.exp(value - highest) for value in log_probabilities]
    return sum(part * value for part, value in zip(parts, LEVEL_VALUES, strict=True)) / sum(parts)


TASK = Task(
    name="quality",
    title="Image quality",
    splits=SETS,
    prompts=_ASPECTS,
    protocols=("levels",),
    prompts_of={"ava": ("aesthetics", "quality")},
    files=_files,
    load=_load,
    score=_score,
    primary_metric="srcc",
    download_hint="Put the opinion scores of a set (koniq10k_scores_and_distributions.csv of KonIQ-10k, dmos.csv of "
    "KADID-10k, AVA.txt, LSVQ_test.csv, the sheet of SPAQ as CSV, or a JSON of Q-Align) into quality/ as "
    "<set>.csv, .json or .txt, and its images into quality/<set>/.",
    decoding={"": Decoding(max_new_tokens=1)},
    aspect="pad",
    suffix="",
)
