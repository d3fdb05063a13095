"""The loop: a stopped stage continues as if it had never stopped."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import GOLDENS, tiny_config, tiny_model
from transformers import AutoTokenizer

from owl2.data.training_set import PixelStore, TrainingSet
from owl2.processing import Owl2ImageProcessor, Owl2Processor
from owl2.training.loop import Interrupted, StageSettings, train_stage
from owl2.training.stages import PRETRAINING_PARTS, select_trainable

SETTINGS = StageSettings(steps=6, batch_size=4, learning_rate=1e-2, warmup_steps=2, mirror=True)


class RandomPixels(PixelStore):
    def __init__(self, count: int, side: int) -> None:
        self._index = {str(index): index for index in range(count)}
        self._pixels = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def processor() -> Owl2Processor:
    tokenizer = AutoTokenizer.from_pretrained(GOLDENS / "tokenizer")
    return Owl2Processor(Owl2ImageProcessor(size={"height": 16, "width": 16}), tokenizer, num_image_tokens=4)


@pytest.fixture(scope="module")
def data(processor: Owl2Processor) -> TrainingSet:
    captions = ["a cat", "the image", "a cat is on the mat", "big", "describe", "what is in the picture"]
    samples = [processor.encode_pair(caption) for caption in captions]
    return TrainingSet(samples, [[str(index)] for index in range(len(captions))], RandomPixels(len(captions), 16))


def fresh_model() -> torch.nn.Module:
    model = tiny_model(tiny_config(vocab_size=320))
    select_trainable(model, PRETRAINING_PARTS)
    return model


def mean_loss(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    return model(**batch, supervised_logits_only=True).loss


def train(model: torch.nn.Module, processor: Any, data: TrainingSet, directory: Path, loss_of: Any = mean_loss) -> None:
    train_stage("stage 1", model, processor, data, SETTINGS, directory, loss_of)


def losses(directory: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_stopped_stage_continues_bit_for_bit(processor: Owl2Processor, data: TrainingSet, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    uninterrupted = fresh_model()
    train(uninterrupted, processor, data, whole)

    calls = []

    def stop_in_step_three(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        calls.append(batch)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return mean_loss(model, batch)

    with pytest.raises(Interrupted, match="after step 3 of 6"):
        train(fresh_model(), processor, data, stopped, stop_in_step_three)
    resumed = fresh_model()
    train(resumed, processor, data, stopped)
    assert losses(stopped) == losses(whole) and len(losses(whole)) == 6
    for one, other in zip(uninterrupted.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not list(stopped.glob("*.pt"))


def test_a_stage_learns_and_leaves_the_frozen_parts_alone(
    processor: Owl2Processor, data: TrainingSet, tmp_path: Path
) -> None:
    model, before = fresh_model(), fresh_model()
    train(model, processor, data, tmp_path)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    for (name, one), other in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(one, other) != one.requires_grad, name


def test_metrics_say_what_each_step_did(processor: Owl2Processor, data: TrainingSet, tmp_path: Path) -> None:
    train(fresh_model(), processor, data, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["samples"] for line in lines] == [4, 8, 12, 16, 20, 24]
    assert all(line["grad_norm"] > 0 and line["tokens"] > 0 and line["stage"] == "stage 1" for line in lines)


def test_a_killed_stage_begins_again_and_no_step_is_there_twice(
    processor: Owl2Processor, data: TrainingSet, tmp_path: Path
) -> None:
    calls = []

    def killed_in_step_three(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        calls.append(batch)
        if len(calls) == 3:
            raise SystemExit
        return mean_loss(model, batch)

    other = json.dumps({"stage": "text", "step": 9, "loss": 1.0})
    (tmp_path / "metrics.jsonl").write_text(other + "\n")
    with pytest.raises(SystemExit):
        train(fresh_model(), processor, data, tmp_path, killed_in_step_three)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "stage 1", "st')  # the power went off while the line was written
    train(fresh_model(), processor, data, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [
        ("text", 9),
        *(("stage 1", step) for step in range(1, 7)),
    ]
