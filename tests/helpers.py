"""Tiny models with random parameters, batches for them, and the golden models of the official code."""

import json
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import PreTrainedModel

from owl2.modeling import (
    Owl2AbstractorConfig,
    Owl2Config,
    Owl2ForConditionalGeneration,
    Owl2TextConfig,
    Owl2VisionConfig,
)

GOLDENS = Path(__file__).parent / "goldens"
"""Folder of the golden files.

`published_settings` is a model as the published one, but small; `other_settings` has attention biases, tied embeddings,
scaled rotary positions, another activation, and neither class tokens nor the last norm of the vision encoder.
"""

PLACEHOLDER = -200
"""The official code's image placeholder: one id for all rows of an image."""


def write_official(directory: Path) -> Path:
    """A small model as the official code writes it, with its tokenizer; returns the directory."""
    model = GOLDENS / "published_settings"
    for file in (model / "config.json", model / "model.safetensors", *GOLDENS.glob("tokenizer/tok*")):
        shutil.copyfile(file, directory / file.name)
    return directory


def video_of_unknown_codec(path: Path) -> Path:
    """An AVI file whose codec has a name that nobody knows."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (32, 16)))))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"none"))
    return path


def vision_config(**changes: Any) -> Owl2VisionConfig:
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    return Owl2VisionConfig(**{**sizes, "image_size": 16, "patch_size": 4, **changes})


def abstractor_config(**changes: Any) -> Owl2AbstractorConfig:
    sizes = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2)
    return Owl2AbstractorConfig(**{**sizes, "num_learnable_queries": 3, **changes})


def text_config(**changes: Any) -> Owl2TextConfig:
    sizes = dict(vocab_size=97, hidden_size=64, intermediate_size=80, num_hidden_layers=2)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=None)
    return Owl2TextConfig(**{**sizes, **heads, **ids, **changes})


def tiny_config(
    vision: dict[str, Any] | None = None, abstractor: dict[str, Any] | None = None, **text: Any
) -> Owl2Config:
    return Owl2Config(
        vision_config=vision_config(**(vision or {})),
        abstractor_config=abstractor_config(**(abstractor or {})),
        text_config=text_config(**text),
        tie_word_embeddings=text.get("tie_word_embeddings", False),
    )


@torch.no_grad()
def randomize(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Gives every parameter a random value, so that none is at its initial value (norms at 1, biases at 0)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = "norm" in name and "weight" in name
        parameter.copy_(1 + 0.3 * noise if is_norm else 0.15 * noise)
    return model


def tiny_model(
    config: Owl2Config | None = None, seed: int = 0, attention: str = "sdpa"
) -> Owl2ForConditionalGeneration:
    """A random model in evaluation mode."""
    model = Owl2ForConditionalGeneration(config or tiny_config())
    model.set_attn_implementation(attention)
    return randomize(model, seed).eval()


IMAGE = "image"
"""Stands for all rows of an image in the parts of a sample."""


def sample(config: Owl2Config, parts: list[int | str], seed: int) -> dict[str, Any]:
    """Inputs of one sample: a whole number is so many random text tokens, `IMAGE` the rows of a random image."""
    generator = torch.Generator().manual_seed(seed)
    vision, vocabulary = config.vision_config, config.text_config.vocab_size
    ids: list[int] = []
    for part in parts:
        if part == IMAGE:
            ids += [config.image_token_id] * config.tokens_per_image
        else:
            ids += torch.randint(3, vocabulary, (int(part),), generator=generator).tolist()
    count = parts.count(IMAGE)
    shape = (count, vision.num_channels, vision.image_size, vision.image_size)
    pixel_values = torch.randn(shape, generator=generator) if count else None
    return {"input_ids": torch.tensor([ids]), "pixel_values": pixel_values}


def batch(samples: list[dict[str, Any]], side: str = "right") -> dict[str, Any]:
    """Samples padded on a side to one batch, with its attention mask, and labels that supervise all text."""
    length = max(each["input_ids"].shape[1] for each in samples)

    def padded(values: torch.Tensor, fill: int) -> torch.Tensor:
        pad = torch.full((1, length - values.shape[1]), fill)
        return torch.cat([values, pad] if side == "right" else [pad, values], dim=1)

    images = [each["pixel_values"] for each in samples if each["pixel_values"] is not None]
    return {
        "input_ids": torch.cat([padded(each["input_ids"], 0) for each in samples]),
        "attention_mask": torch.cat([padded(torch.ones_like(each["input_ids"]), 0) for each in samples]),
        "labels": torch.cat([padded(each["input_ids"], -100) for each in samples]),
        "pixel_values": torch.cat(images) if images else None,
    }


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape, f"shapes {tuple(one.shape)} and {tuple(other.shape)}"
    return (one.float() - other.float()).abs().max().item() if one.numel() else 0.0


@dataclass
class GoldenModel:
    """A model of the official code with what it computed."""

    directory: Path
    cases: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    grads: dict[str, Any]

    def images(self, indices: list[int]) -> torch.Tensor | None:
        """Images of the pool; index -1, the official dummy image of a row without images, is left out."""
        real = [index for index in indices if index >= 0]
        return self.tensors["images"][real].float() if real else None


def golden_directories() -> list[Path]:
    """The folders of golden models; `OWL2_REFERENCE` names another folder of them."""
    folder = Path(os.environ.get("OWL2_REFERENCE", GOLDENS))
    return sorted(path.parent for path in folder.glob("*/cases.json") if (path.parent / "config.json").is_file())


@cache
def golden(directory: Path) -> GoldenModel:
    return GoldenModel(
        directory,
        json.loads((directory / "cases.json").read_text())["cases"],
        load_file(directory / "cases.safetensors"),
        json.loads((directory / "grads.json").read_text()),
    )


def expanded_case(model: GoldenModel, case: str, config: Owl2Config) -> dict[str, Any]:
    """Inputs of a golden case with every placeholder widened to the rows of its images, padded on the right."""
    info, tensors = model.cases[case], model.tensors
    ids = tensors[f"{case}/input_ids"]
    mask = tensors.get(f"{case}/attention_mask", torch.ones_like(ids))
    labels = tensors.get(f"{case}/labels", torch.full_like(ids, -100))
    pool = info.get("images") or []
    frames = len(pool) if info.get("images_kind") == "list" else 1  # a list is one video at the only placeholder
    rows = config.tokens_per_image * frames
    expanded = []
    for row in range(len(ids)):
        columns: list[tuple[int, int, int]] = []
        for token, kept, label in zip(ids[row].tolist(), mask[row].tolist(), labels[row].tolist(), strict=True):
            image = (config.image_token_id, 1, -100)
            columns += [image] * rows if token == PLACEHOLDER else [(token, int(kept), label)]
        expanded.append(columns)
    length = max(len(columns) for columns in expanded)
    values = torch.tensor([columns + [(0, 0, -100)] * (length - len(columns)) for columns in expanded])
    return {
        "input_ids": values[..., 0],
        "attention_mask": values[..., 1],
        "labels": values[..., 2],
        "pixel_values": model.images(pool),
    }
