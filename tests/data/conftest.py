"""Annotation files made by the tests, in the official formats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Write values as a JSON file or, to a name that ends in `.jsonl`, one a line; gives the path."""

    def write_json(name: str, values: Any) -> Path:
        lines = [json.dumps(value) for value in values] if name.endswith(".jsonl") else [json.dumps(values)]
        path = tmp_path / name
        path.write_text("\n".join(lines))
        return path

    return write_json


@pytest.fixture
def spoken() -> Callable[[Any], list[tuple[str, str]]]:
    """Role and text of every turn, after a look that the images are where the published prompt has them."""

    def turns_of(conversation: Any) -> list[tuple[str, str]]:
        found = []
        images = len(conversation.images)
        for message in conversation.messages:
            *before, last = message["content"]
            expected = images if message["role"] == "user" else 0
            assert before == [{"type": "image"}] * expected and last["type"] == "text"
            images -= expected
            found.append((message["role"], last["text"]))
        assert images == 0
        return found

    return turns_of
