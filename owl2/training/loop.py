"""The training loop of one stage: progress, metrics as JSON lines, a clean stop at Ctrl-C, and going on from there."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from owl2.data.training_set import TrainingSet
from owl2.processing import Owl2Processor
from owl2.training.monitoring.process_memory import memory_keeper

from .muon import MasterWeightAdamW, MuonAdamW, cosine_rate
from .stop_signal import stop_signal


class StageSettings(NamedTuple):
    """How a stage trains.

    Attributes:
        steps, batch_size: optimizer steps of so many samples.
        learning_rate, min_learning_rate, warmup_steps: cosine schedule.
        vision_layer_decay, language_lr_scale: shares of the rate for some parts; see `MasterWeightAdamW`.
        muon_share: rate of the vision matrices as a multiple of the rate, by Muon; 0 leaves them to AdamW.
        mirror: augment images by horizontal flips.
    """

    steps: int
    batch_size: int
    learning_rate: float
    min_learning_rate: float = 0.0
    warmup_steps: int = 20
    weight_decay: float = 0.05
    vision_layer_decay: float = 1.0
    language_lr_scale: float = 1.0
    muon_share: float = 0.0
    mirror: bool = True
    seed: int = 0


class Interrupted(Exception):
    """The user stopped the run; what was learnt is saved."""


def train_stage(
    name: str,
    model: nn.Module,
    processor: Owl2Processor,
    data: TrainingSet,
    settings: StageSettings,
    directory: Path,
    loss_of: Callable[[nn.Module, dict[str, Any]], torch.Tensor],
) -> float:
    """Trains what requires gradients, and appends to `metrics.jsonl` in the directory.

    If a run of this stage was stopped, it continues at the step where it stopped.

    Args:
        loss_of: mean loss of a batch.

    Returns:
        Seconds spent here.

    Raises:
        Interrupted: at Ctrl-C or SIGTERM, after the current step was saved.
    """
    optimizer = _optimizer(model, settings)
    saved = directory / f"{name}.interrupted.pt"
    first = _resume(saved, model, optimizer) if saved.is_file() else 0
    _forget_lost_steps(directory / "metrics.jsonl", name, first)
    started, smoothed, keep_memory = time.perf_counter(), None, memory_keeper()
    model.train()
    batches = data.batches(settings.batch_size, settings.seed, first)
    with (
        stop_signal() as stopped,
        progress_bar() as progress,
        (directory / "metrics.jsonl").open("a", buffering=1) as metrics,
    ):
        bar = progress.add_task(name, total=settings.steps, completed=first, loss="", speed="")
        for step in range(first, settings.steps):
            flips = random.Random(f"{settings.seed}-{step}") if settings.mirror else None
            batch = data.collate(next(batches), processor, flips)
            loss = loss_of(model, batch)
            loss.backward()
            rate = cosine_rate(
                step, settings.steps, settings.warmup_steps, settings.learning_rate, settings.min_learning_rate
            )
            norm = optimizer.step(rate)
            value = loss.item()
            smoothed = value if smoothed is None else 0.95 * smoothed + 0.05 * value
            seconds = time.perf_counter() - started
            line = {"stage": name, "step": step + 1, "loss": value, "grad_norm": norm, "learning_rate": rate}
            line["samples"] = (step + 1) * len(batch["input_ids"])
            line["tokens"] = int(batch["attention_mask"].sum())
            metrics.write(json.dumps({**line, "seconds": round(seconds, 3)}) + "\n")
            done = (step + 1 - first) * len(batch["input_ids"])
            progress.update(bar, advance=1, loss=f"loss {smoothed:.3f}", speed=f"{done / seconds:.0f} samples/s")
            keep_memory()
            if stopped():
                state = {"step": step + 1, "model": _trained(model), "optimizer": optimizer.state_dict()}
                torch.save(state, saved.with_suffix(".partial"))
                saved.with_suffix(".partial").replace(saved)
                raise Interrupted(f"Stopped in {name} after step {step + 1} of {settings.steps}; everything is saved.")
    saved.unlink(missing_ok=True)
    return time.perf_counter() - started


def _forget_lost_steps(metrics: Path, stage: str, first: int) -> None:
    """Takes out lines of steps that a killed run did and nobody saved: they are done again."""
    if not metrics.is_file():
        return
    lines = metrics.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _is_kept(json.loads(line), stage, first)]
    if len(kept) < len(lines):
        metrics.write_text("".join(kept))


def _is_kept(line: dict[str, Any], stage: str, first: int) -> bool:
    return line["stage"] != stage or line["step"] <= first


def _trained(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def _optimizer(model: nn.Module, settings: StageSettings) -> MasterWeightAdamW:
    rates = {"vision_layer_decay": settings.vision_layer_decay, "language_lr_scale": settings.language_lr_scale}
    if settings.muon_share:
        return MuonAdamW(model, settings.weight_decay, settings.muon_share, **rates)
    return MasterWeightAdamW(model, settings.weight_decay, **rates)


@torch.no_grad()
def _resume(file: Path, model: nn.Module, optimizer: MasterWeightAdamW) -> int:
    """Continues a stopped stage; returns the steps that were done. No pickle is executed."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    parameters = dict(model.named_parameters())
    for name, value in state["model"].items():
        parameters[name].copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def progress_bar() -> Progress:
    """Progress of long work: loss, speed, time, time left."""
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[loss]:<11} {task.fields[speed]:<15}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
