"""The sources and the preparation of samples: keys belong to formats, and settings fit each other."""

from pathlib import Path
from typing import Any

import pytest
from training.tiny_recipes import refusal_of


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"packing": {"length": 8}}}, "packing.length 8 is below max_length 64"),
        ({"data": {"sources": {"x": {"format": "jsonl"}}}}, "a source of the format jsonl needs a path"),
        ({"data": {"sources": {"x": {"format": "easy_vqa", "root": "y"}}}}, "root is a key of records, jsonl"),
        ({"data": {"sources": {"x": {"format": "easy_vqa", "texts": ["facts"]}}}}, "texts is a key of english"),
        ({"data": {"sources": {"x": {"format": "jsonl", "path": "y", "thinned": True}}}}, "thinned is a key of"),
        ({"data": {"sources": {"x": {"format": "english", "path": "y"}}}}, "the format english takes no path"),
        ({"data": {"keep_in_memory": True}}, "keep_in_memory keeps whole images, and augment=true crops"),
        ({"data": {"augment": "flip", "keep_left_and_right": True}}, "which augment=flip does not: use augment=true"),
        ({"data": {"augment": "crop"}}, "data.augment"),
    ],
)
def test_a_wrong_setting_of_the_data_is_refused_in_words(
    directory: Path, settings: dict[str, Any], message: str
) -> None:
    assert message in refusal_of(directory, **settings)
