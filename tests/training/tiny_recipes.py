"""Recipes of a tiny model with data made on the spot, and what a run of them leaves."""

import io
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from owl2.training.recipe.schema import Recipe
from owl2.training.recipe.yaml_file import load_recipe
from owl2.training.run import train

COLORS = ("red", "green", "blue", "yellow")

_WORDS = "a small picture of one plain colour that fills the whole square from left to right and top to bottom".split()


def write_data(directory: Path, count: int = 40) -> None:
    """Pictures of one colour, `pairs.jsonl` with captions, `records.jsonl` with conversations of unequal lengths."""
    generator = random.Random(0)
    pairs, records = [], []
    for index in range(count):
        color, file = COLORS[index % 4], f"{index}.png"
        shade = Image.new("RGB", (20 + index % 5, 16), color)
        shade.putpixel((index % 16, index % 13), (index, 2 * index, 3 * index))
        shade.save(directory / file)
        tail = " ".join(generator.choices(_WORDS, k=generator.randint(1, 12)))
        pairs.append({"image": file, "caption": f"{color} {tail}"})
        answers = [{"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": color}]
        if index % 3 == 0:
            answers = [{"from": "human", "value": "Say it again."}, {"from": "gpt", "value": tail}]
        answers += [{"from": "human", "value": "And then?"}, {"from": "gpt", "value": tail}] * (index % 2)
        records.append({"id": str(index), "conversations": answers} | ({"image": file} if index % 3 else {}))
    for name, lines in (("pairs.jsonl", pairs), ("records.jsonl", records)):
        (directory / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_training(directory: Path) -> Path:
    """`write_data` and `write_recipes`; returns the directory."""
    write_data(directory)
    write_recipes(directory)
    return directory


def write_recipes(directory: Path) -> None:
    """`pretrain.yaml` and `instruct.yaml` beside the data."""
    pretrain = {
        "stage": "pretrain",
        "model": {
            "initialize": {
                "language_model": {
                    "vocab_size": 300,
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                },
                "vision": {
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "patch_size": 8,
                    "initializer_range": 0.1,
                },
                "abstractor": {
                    "intermediate_size": 40,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "num_learnable_queries": 3,
                    "initializer_range": 0.1,
                },
            }
        },
        "data": {
            "sources": {"pairs": {"format": "jsonl", "path": str(directory / "pairs.jsonl")}},
            "image_size": 16,
            "max_length": 64,
            "augment": True,
            "workers": 0,
        },
        "train": {"parts": ["vision_encoder", "abstractor", "decoder_vision"]},
        "optimizer": {"learning_rate": 1e-2, "weight_decay": 0.05},
        "schedule": {"steps": 3, "warmup_steps": 1},
        "batch": {"global_batch_size": 32, "micro_batch_size": 32},
        "precision": "fp32",
        "parallel": {"stall_timeout_s": 120},
        "checkpoint": {"every": 100, "asynchronous": False},
    }
    instruct = {
        "base": "pretrain.yaml",
        "stage": "instruct",
        "data": {
            "sources": {"records": {"format": "records", "path": str(directory / "records.jsonl")}},
            "max_length": 96,
            "augment": False,
            "cache": str(directory / "cache"),
        },
        "train": {
            "parts": ["vision_encoder", "abstractor", "decoder_vision", "decoder_text", "decoder_shared", "embeddings"]
        },
    }
    (directory / "pretrain.yaml").write_text(yaml.safe_dump(pretrain))
    (directory / "instruct.yaml").write_text(yaml.safe_dump(instruct))


def changed_recipe(directory: Path, **settings: Any) -> Path:
    """The file of a recipe that is `pretrain.yaml` with other settings."""
    file = directory / "changed.yaml"
    file.write_text(yaml.safe_dump({"base": "pretrain.yaml", **settings}))
    return file


def refusal_of(directory: Path, **settings: Any) -> str:
    """What is said when `pretrain.yaml` with other settings is read, which must be an error."""
    with pytest.raises(ValueError) as caught:
        load_recipe(changed_recipe(directory, **settings))
    return str(caught.value)


def recipe_of(directory: Path, stage: str, out: Path, *overrides: str) -> Recipe:
    return load_recipe(directory / f"{stage}.yaml", [f"out={out}", *overrides])


def run_recipe(
    directory: Path, stage: str, out: Path, *overrides: str, on_step: Callable[[int], Any] | None = None
) -> tuple[bool, str]:
    """Whether the run is finished, and what it printed."""
    printed = io.StringIO()
    finished = train(recipe_of(directory, stage, out, *overrides), Console(file=printed, width=200), on_step)
    return finished, printed.getvalue()


def stop_after_two(data: Path, stage: str, out: Path, *overrides: str) -> None:
    """A run of three steps that was killed after a checkpoint at step 2."""
    run_recipe(data, stage, out, "checkpoint.every=2", *overrides)
    shutil.rmtree(out / "checkpoint")
    for checkpoint in (out / "checkpoints").iterdir():
        if checkpoint.name != "step-00000002":
            shutil.rmtree(checkpoint)


def run_recipes(directory: Path, runs: Sequence[tuple[str, Path, Sequence[str]]]) -> None:
    """Several runs in one process; for ranks, which meet anew for each."""
    for stage, out, overrides in runs:
        run_recipe(directory, stage, out, *overrides)
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def curve(out: Path) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    return [(line["loss"], line["grad_norm"]) for line in metrics(out)]


def stop_after(data: Path, out: Path, step: int, *overrides: str) -> None:
    """Runs stage 2 until a signal asks it to stop after a step."""

    def terminate(done: int) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    finished, printed = run_recipe(data, "instruct", out, *overrides, on_step=terminate)
    assert not finished and f"stopped after step {step}" in printed


def assert_same_run(found: Path, wanted: Path, tolerance: float = 1e-5) -> None:
    expected = curve(wanted)
    assert len(expected) == 3 and expected[0] != expected[2]
    torch.testing.assert_close(torch.tensor(curve(found)), torch.tensor(expected), rtol=tolerance, atol=tolerance)
    for name in ("samples", "tokens", "supervised_tokens", "images", "learning_rate"):
        assert [line[name] for line in metrics(found)] == [line[name] for line in metrics(wanted)], name
