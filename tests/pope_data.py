"""Writes POPE in its official form: three files of questions about images of COCO."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

SUBSETS = ("random", "popular", "adversarial")


def question(number: int, image: str = "a.png", text: str | None = None) -> dict[str, Any]:
    """A question as in a file, by default one of its own words; the answer is yes for an even number."""
    label = ("yes", "no")[number % 2]
    return {"question_id": number, "image": image, "text": text or f"Is it {number}?", "label": label}


FOUR = tuple(map(question, range(4)))


def write_pope(
    root: Path, questions: Iterable[dict[str, Any]] | Mapping[str, Iterable[dict[str, Any]]] = FOUR, end: str = "\n"
) -> Path:
    """Writes the questions of each subset, or the same ones for all, and the images that do not exist yet.

    Returns:
        The root of the data.
    """
    subsets = questions if isinstance(questions, Mapping) else dict.fromkeys(SUBSETS, list(questions))
    images = root / "coco" / "val2014"
    for folder in (root / "pope", images):
        folder.mkdir(parents=True, exist_ok=True)
    for subset, rows in subsets.items():
        with (root / "pope" / f"coco_pope_{subset}.json").open("w", encoding="utf-8", newline="") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + end)
                if not (images / row["image"]).exists():
                    Image.new("RGB", (20, 16), "red").save(images / row["image"])
    return root
