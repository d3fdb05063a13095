"""A tiny model directory with its processor, and a few conversations about pictures of one colour."""

from pathlib import Path
from typing import Any

import pytest
from helpers import write_official
from PIL import Image

from owl2 import Owl2ForConditionalGeneration, Owl2Processor

COLORS = ("red", "blue", "white", "black")


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `save_pretrained` writes it."""
    official, ours = tmp_path_factory.mktemp("official"), tmp_path_factory.mktemp("ours")
    write_official(official)
    Owl2ForConditionalGeneration.from_pretrained(official).save_pretrained(ours)
    Owl2Processor.from_pretrained(official).save_pretrained(ours)
    return ours


@pytest.fixture
def model(directory: Path) -> Owl2ForConditionalGeneration:
    return Owl2ForConditionalGeneration.from_pretrained(directory)


@pytest.fixture
def processor(directory: Path) -> Owl2Processor:
    return Owl2Processor.from_pretrained(directory)


@pytest.fixture
def conversations() -> list[dict[str, Any]]:
    """`images` and `messages`."""
    records = []
    for color in COLORS:
        question = [{"type": "image"}, {"type": "text", "text": "What color?"}]
        answer = [{"type": "text", "text": color}]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        records.append({"images": [Image.new("RGB", (56, 56), color)], "messages": messages})
    return records


@pytest.fixture
def prompt(processor: Owl2Processor, conversations: list[dict[str, Any]]) -> dict[str, Any]:
    """The first question, ready for `generate`."""
    text = processor.apply_chat_template(conversations[0]["messages"][:1], add_generation_prompt=True)
    return dict(processor(text=text, images=conversations[0]["images"], return_tensors="pt"))
