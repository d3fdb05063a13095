"""`owl2 data scenes`: its files are what the other commands and the recipes read."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from owl2.data.formats import RecordFile
from owl2.data.pairs import open_pairs
from owl2.data.sources.scenes.records import SceneConversations, ScenePairs, SceneSettings
from owl2.processing import load_image

SETTINGS = SceneSettings(count=12, seed=3, split="held_out", difficulty="easy", kinds=("vqa", "text"), image_size=48)


@pytest.fixture
def written(owl2: Callable[..., Result], tmp_path: Path) -> Path:
    chosen = ["--count", 12, "--seed", 3, "--split", "held_out", "--difficulty", "easy", "--image-size", 48]
    found = owl2("data", "scenes", "--out", tmp_path / "scenes", *chosen, "--kind", "text", "--kind", "vqa")
    assert found.exit_code == 0, found.output
    return tmp_path / "scenes"


def same(first: object, second: object) -> bool:
    return np.array_equal(np.asarray(load_image(first)), np.asarray(load_image(second)))  # type: ignore[arg-type]


def test_the_conversations_read_back_are_those_that_training_makes(written: Path) -> None:
    records, made = RecordFile(written / "conversations.jsonl"), SceneConversations(SETTINGS)
    assert len(records) == 12
    for number in range(12):
        read = records[number]
        assert read.messages == made[number].messages and read.id == made[number].id
        assert all(same(*images) for images in zip(read.images, made[number].images, strict=True))


def test_the_pairs_read_back_are_those_that_training_makes(written: Path) -> None:
    source, made = open_pairs("pairs", written / "pairs.jsonl"), ScenePairs(SETTINGS)
    for number in range(12):
        read = source.read(0, number)
        assert read.caption == made[number].caption and same(read.image, made[number].image)


def test_every_image_has_its_scene_and_programs(written: Path) -> None:
    lines = [json.loads(line) for line in (written / "scenes.jsonl").read_text().splitlines()]
    assert {line["image"] for line in lines} == {f"images/{file.name}" for file in (written / "images").iterdir()}
    asked = [question for line in lines for question in line["questions"]]
    assert asked and all(set(each) == {"template", "text", "answer", "program"} for each in asked)


def test_other_commands_read_the_files(owl2: Callable[..., Result], written: Path) -> None:
    assert owl2("data", "check", written / "conversations.jsonl", "--images").exit_code == 0
    assert owl2("data", "pairs", written / "pairs.jsonl").exit_code == 0
    assert "48 x 48 pixels" in owl2("data", "show", written / "conversations.jsonl", "--index", 0).output


def test_a_directory_with_files_is_not_written_to(refused: Callable[..., str], written: Path) -> None:
    assert "not empty" in refused("data", "scenes", "--out", written)
