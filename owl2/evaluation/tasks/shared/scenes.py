"""Generated scenes: benchmarks of three levels of difficulty. Nothing is to be fetched."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from owl2.data.sources.scenes.benchmark import SPLITS, Item, items
from owl2.data.sources.scenes.drawing import PICTURE_SIZE, draw
from owl2.data.sources.scenes.world import DifficultyName
from owl2.evaluation.task import Decoding, Prediction, Sample, Scores, Task

from .common import means_by

IMAGES = ("matching", "unrelated", "blank", "no_image")
"""The image shown with a question: the scene that it is about, another one, a gray picture, or none."""

_BOX = re.compile(r"\[\s*" + r",\s*".join([r"(\d*\.?\d+)"] * 4) + r"\s*\]")
_GRAY = (128, 128, 128)


def scenes_task(name: str, difficulty: DifficultyName) -> Task:
    """The benchmark of a level of difficulty."""
    return Task(
        name=name,
        title=f"Scenes ({difficulty})",
        splits=SPLITS,
        prompts=IMAGES,
        prompts_of={"text": ("no_image",), "unrelated_image": ("unrelated", "matching", "blank", "no_image")},
        protocols=("exact_match",),
        files=lambda root, split: [],
        load=partial(_load, difficulty),
        score=_score,
        primary_metric="accuracy",
        download_hint="",
        is_generated=True,
        decoding={"": Decoding(max_new_tokens=24)},
        suffix="",  # as in training
    )


def _load(difficulty: DifficultyName, root: Path, split: str, prompt: str) -> list[Sample]:
    """Loads the samples. Facts have no scene of their own: with the prompt `matching` they are left out."""
    return [
        Sample(item.id, item.text, item.answer, images=_shown(item, prompt), details=_details(item))
        for item in items(split, difficulty)
        if item.scene is not None or prompt != "matching"
    ]


def _details(item: Item) -> dict[str, Any]:
    return {"template": item.template, "skill": item.skill, "chance": item.chance, "pair": item.pair}


def _blank() -> Image.Image:
    return Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), _GRAY)


def _shown(item: Item, prompt: str) -> tuple[Callable[[], Image.Image], ...]:
    """The image of a question, which is drawn when the model is asked."""
    if prompt == "no_image":
        return ()
    if prompt == "blank":
        return (_blank,)
    scene = item.scene if prompt == "matching" else item.other
    assert scene is not None, "facts are left out"
    return (partial(draw, scene, PICTURE_SIZE),)


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    """Scores answers by exact match but for case and a full stop, boxes by an intersection over union of 0.5."""
    correct = [float(_is_right(record)) for record in records]
    by = {
        f"by_{name}": means_by([record.details[name] for record in records], correct) for name in ("skill", "template")
    }
    chance = {record.details["template"]: record.details["chance"] for record in records}
    summary: dict[str, Any] = {"accuracy": fmean(correct), **by, "chance": chance}
    pairs = _pairs(records, correct)
    if pairs:
        summary["pair_accuracy"] = fmean(pairs)
    return Scores([record.answer for record in records], correct, summary)


def _is_right(record: Prediction) -> bool:
    found, wanted = _BOX.search(record.answer), _BOX.fullmatch(record.gold)
    if wanted is not None:
        return found is not None and _overlap(_numbers(found), _numbers(wanted)) >= 0.5
    return record.answer.strip().rstrip(".").lower() == str(record.gold).lower()


def _pairs(records: Sequence[Prediction], correct: Sequence[float]) -> list[float]:
    """Whether both answers are right, for each pair whose questions are both present."""
    found = defaultdict(list)
    for record, score in zip(records, correct, strict=True):
        if record.details["pair"] is not None:
            found[record.details["template"], record.details["pair"]].append(score)
    return [min(scores) for scores in found.values() if len(scores) == 2]


def _numbers(match: re.Match[str]) -> list[float]:
    return [float(number) for number in match.groups()]


def _overlap(first: list[float], second: list[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(width, 0.0) * max(height, 0.0)
    areas = sum(max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0) for box in (first, second))
    return common / (areas - common) if common else 0.0
