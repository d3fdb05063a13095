"""Small mixtures: annotation files in the official formats and files of records."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from owl2.data.mixture import MixtureRecipe, load_mixture_recipe


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Write values as a JSON file or, to a name that ends in `.jsonl`, one a line."""

    def write_json(name: str, values: Any) -> Path:
        lines = [json.dumps(value) for value in values] if name.endswith(".jsonl") else [json.dumps(values)]
        path = tmp_path / name
        path.write_text("".join(line + "\n" for line in lines))
        return path

    return write_json


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., MixtureRecipe]:
    """Write a recipe of these sources, and read it."""

    def load(sources: dict[str, Any], **keys: Any) -> MixtureRecipe:
        path = tmp_path / "mixture.yaml"
        path.write_text(yaml.safe_dump({"cache": "cache", **keys, "sources": sources}, sort_keys=False))
        return load_mixture_recipe(path)

    return load


@pytest.fixture
def textcaps(write: Callable[[str, Any], Path]) -> dict[str, str]:
    """A source of 12 images with three captions each, which an epoch chooses from."""
    rows = [
        {"image_id": f"i{image:02}", "caption_str": f"caption {caption} of {image}"}
        for image in range(12)
        for caption in range(3)
    ]
    write("captions.json", {"data": rows})
    return {"annotations": "captions.json", "images": "."}


@pytest.fixture
def slim_orca(write: Callable[[str, Any], Path]) -> dict[str, str]:
    """A source of 30 texts of growing length."""
    rows = [
        {
            "conversations": [
                {"from": "human", "value": f"question {row}"},
                {"from": "gpt", "value": "word " * (row + 1)},
            ]
        }
        for row in range(30)
    ]
    write("orca.jsonl", rows)
    return {"annotations": "orca.jsonl"}
