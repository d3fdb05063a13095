"""Checkpoints of a few small tensors."""

from pathlib import Path

import torch

from owl2.training.checkpoint.manager import Checkpoints


def tensors(value: float = 0.0) -> dict[str, torch.Tensor]:
    return {
        "a.master": torch.full((3, 2), value),
        "a.step": torch.tensor(value),
        "b": torch.full((4,), value).bfloat16(),
    }


def saved(directory: Path, *steps: int, keep: int = 9) -> Checkpoints:
    """Checkpoints of some steps, each full of its number."""
    checkpoints = Checkpoints(directory, keep)
    for step in steps:
        checkpoints.save(step, tensors(step), {"note": f"step {step}"}, {"own": step})
    checkpoints.wait()
    return checkpoints
