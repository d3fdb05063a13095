"""What `owl2 inspect` and `owl2 attention` ask: about pictures, and without any; and a fixed corpus of text."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from owl2.data.sources import english
from owl2.data.sources.english import Fact
from owl2.data.sources.scenes.benchmark import items
from owl2.data.sources.scenes.descriptions import caption
from owl2.data.sources.scenes.world import DIFFICULTIES, DifficultyName
from owl2.evaluation.task import Sample, Task
from owl2.evaluation.tasks import task_named

DATA: dict[str, DifficultyName | None] = {"easy_vqa": None} | {
    "scenes" if level == "medium" else f"scenes_{level}": level for level in DIFFICULTIES
}
"""Benchmarks that a model can be inspected on; of generated scenes, their level."""

Item = TypeVar("Item")


class Material(NamedTuple):
    """What a model is inspected on.

    Attributes:
        task: The benchmark whose questions these are, which scores the answers.
        about_pictures: Questions with one picture each, spread over the test split.
        without_pictures: Questions with accepted answers and an answer in a sentence: facts in English (easy-VQA), or
            scenes told in words.
        corpus: Plain text: held-out passages in English (easy-VQA), or captions of scenes that training does not show.
    """

    task: Task
    about_pictures: list[Sample]
    without_pictures: list[Fact]
    corpus: list[str]


def material(data: str, limit: int) -> Material:
    """The questions and texts of a data set.

    Args:
        data: One of `DATA`.
        limit: Largest number of each kind.

    Raises:
        ValueError: There is no such data set, or what it needs is not installed.
    """
    if data not in DATA:
        raise ValueError(f"a model is inspected on one of {', '.join(DATA)}, not on {data!r}")
    task, level = task_named(data), DATA[data]
    questions = spread(task.load(Path("data"), "test", task.prompt_for("test", None)), limit)
    if level is None:
        return Material(task, questions, english.facts()[:limit], english.passages("heldout")[:limit])
    told = [Fact(item.text, [item.answer], item.answer) for item in spread(items("text", level), limit)]
    scenes = [item.scene for item in spread(items("test", level), limit)]
    return Material(task, questions, told, [caption(scene) for scene in scenes if scene is not None])


def spread(whole: Sequence[Item], limit: int) -> list[Item]:
    """At most `limit` entries at equal distances, because the questions of a template stand side by side."""
    count = min(limit, len(whole))
    return [whole[index * len(whole) // count] for index in range(count)]
