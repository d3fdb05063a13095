"""Shared by the tests of the benchmarks: files made on the spot, and records with answers given by hand."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from owl2.evaluation.prediction_files import record_of
from owl2.evaluation.task import Prediction
from owl2.evaluation.tasks import task_named


@pytest.fixture
def write_json() -> Callable[[Path, Any], Path]:
    """Writes values as a JSON file or, to a name that ends in `.jsonl`, one a line; makes the folders above."""

    def write(path: Path, values: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(value) for value in values] if path.suffix == ".jsonl" else [json.dumps(values)]
        path.write_text("\n".join(lines))
        return path

    return write


@pytest.fixture
def draw() -> Callable[[Path], Path]:
    """Draws a small picture, another for each path; makes the folders above."""

    def draw_image(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = sum(path.name.encode())
        Image.new("RGB", (20, 16), (number % 256, number * 7 % 256, number * 31 % 256)).save(path)
        return path

    return draw_image


@pytest.fixture
def answered() -> Callable[..., list[Prediction]]:
    """The records of a task with the given answers by id, as if a model had said them."""

    def records(name: str, root: Path, answers: Mapping[str, str], **chosen: str) -> list[Prediction]:
        task = task_named(name)
        split = task.chosen("split", chosen.get("split"))
        samples = task.load(root, split, chosen.get("prompt", task.prompts[0]))
        assert [sample.id for sample in samples] == list(answers)
        return [record_of(sample, sample.prompt, answers[sample.id]) for sample in samples]

    return records
