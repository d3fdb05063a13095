"""Model folders: `owl2 info` reports, and loading loads or refuses, whatever the configuration and headers say."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from fuzz.conftest import Fuzz
from fuzz.inputs import changed_bytes, changed_value
from helpers import tiny_model
from hypothesis import strategies as st

from owl2.checkpoints.inspect import inspect_checkpoint
from owl2.modeling import Owl2ForConditionalGeneration


@pytest.fixture
def model(inside: Path) -> Path:
    tiny_model().save_pretrained(inside / "model")
    return inside / "model"


def check(model: Path, file: str, contents: bytes) -> None:
    (model / file).write_bytes(contents)
    inspect_checkpoint(model)
    Owl2ForConditionalGeneration.from_pretrained(model)


def test_a_configuration(fuzz: Fuzz, model: Path) -> None:
    file = model / "config.json"
    original = file.read_bytes()
    strategy = changed_value(json.loads(original), 2).map(lambda value: json.dumps(value).encode())
    fuzz(strategy | changed_bytes([original]), lambda contents: check(model, file.name, contents), 40)


def test_the_header_of_weights(fuzz: Fuzz, model: Path) -> None:
    file = model / "model.safetensors"
    original = file.read_bytes()
    (length,) = struct.unpack("<Q", original[:8])
    header, tensors = json.loads(original[8 : 8 + length]), original[8 + length :]

    def written(value: Any) -> bytes:
        text = json.dumps(value).encode()
        return struct.pack("<Q", len(text)) + text + tensors

    strategy = changed_value(header).map(written) | changed_bytes([original[: 8 + length]]).map(
        lambda head: head + tensors
    )
    fuzz(strategy, lambda contents: check(model, file.name, contents), 40)


def test_an_index_of_shards(fuzz: Fuzz, model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    index: dict[str, Any] = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    strategy: Any = changed_value(index).map(lambda value: json.dumps(value).encode())
    strategy |= st.sampled_from(("../../outside/secret.png", "/etc/hostname", "")).map(
        lambda name: json.dumps({"weight_map": {"lm_head.weight": name}}).encode()
    )
    name = "model.safetensors.index.json"
    fuzz(strategy, lambda contents: check(model, name, contents), 40)
