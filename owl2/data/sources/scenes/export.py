"""Generated scenes as files: images, records of both stages, and the programs behind the questions."""

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from owl2.files import write_whole

from .drawing import draw
from .records import SceneConversations, ScenePairs, SceneSettings, record_name
from .world import Scene

CONVERSATIONS, PAIRS, SCENES, SHEET = "conversations.jsonl", "pairs.jsonl", "scenes.jsonl", "sheet.png"
_ACROSS, _ROWS, _GAP = 6, 3, 8  # of the sheet


def export_scenes(settings: SceneSettings, out: Path) -> list[Path]:
    """Writes records with their images into a new directory.

    `conversations.jsonl` and `pairs.jsonl` are records of stage 2 and stage 1 in the formats that `owl2 data` and
    recipes read, `scenes.jsonl` has the scene of each image and the programs of the questions of a conversation, and
    `sheet.png` shows the first images.

    Returns:
        The files, images aside.

    Raises:
        ValueError: The directory exists and is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty: choose a new directory")
    (out / "images").mkdir(parents=True)
    scenes: list[dict[str, Any]] = []
    shown: list[Image.Image] = []

    def save(name: str, scene: Scene, questions: list[dict[str, Any]]) -> str:
        image = draw(scene, settings.image_size)
        file = f"images/{name}.png"
        image.save(out / file)
        scenes.append({"image": file, "scene": scene.to_dict(), "questions": questions})
        shown.extend([image] if len(shown) < _ACROSS * _ROWS else [])
        return file

    write_whole(out / CONVERSATIONS, _lines(_conversations(settings, save)))
    write_whole(out / PAIRS, _lines(_pairs(settings, save)))
    write_whole(out / SCENES, _lines(iter(scenes)))
    sheet(shown).save(out / SHEET)
    return [out / name for name in (CONVERSATIONS, PAIRS, SCENES, SHEET)]


def sheet(images: list[Image.Image]) -> Image.Image:
    """Images of one size side by side, six in a row."""
    size = images[0].width + _GAP
    rows = -(-len(images) // _ACROSS)
    page = Image.new("RGB", (min(len(images), _ACROSS) * size + _GAP, rows * size + _GAP), "white")
    for number, image in zip(count(), images):
        page.paste(image, (_GAP + number % _ACROSS * size, _GAP + number // _ACROSS * size))
    return page


_Save = Callable[[str, Scene, list[dict[str, Any]]], str]


def _conversations(settings: SceneSettings, save: _Save) -> Iterator[dict[str, Any]]:
    records = SceneConversations(settings)
    for number in range(settings.count):
        found, name = records.exchanges(number), record_name(settings, number)
        messages = []
        for order, (question, answer) in enumerate(found.exchanges):
            placeholder = "<image>" if order == 0 and found.scene is not None else ""
            messages += [{"role": "user", "content": placeholder + question}, {"role": "assistant", "content": answer}]
        record: dict[str, Any] = {"id": name, "messages": messages}
        if found.scene is not None:
            record["images"] = [save(name, found.scene, [question._asdict() for question in found.questions])]
        yield record


def _pairs(settings: SceneSettings, save: _Save) -> Iterator[dict[str, Any]]:
    pairs = ScenePairs(settings)
    for number in range(settings.count):
        (scene, words), name = pairs.captioned(number), f"pair-{record_name(settings, number)}"
        yield {"id": name, "image": save(name, scene, []), "caption": words}


def _lines(records: Iterator[dict[str, Any]]) -> Iterator[str]:
    return (json.dumps(record) + "\n" for record in records)
