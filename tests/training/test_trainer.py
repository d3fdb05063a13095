"""Training that stops and resumes, to the bit."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from training.tiny_recipes import curve, metrics, run_recipe, stop_after
from transformers import AutoModelForImageTextToText

from owl2.training.checkpoint.manager import Checkpoints


def test_the_seconds_that_training_stands_still_for_a_checkpoint_are_told_with_the_step_after_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, pause = Checkpoints.save, 0.25

    def slow(*arguments: Any) -> None:
        time.sleep(pause)
        save(*arguments)

    monkeypatch.setattr(Checkpoints, "save", slow)
    small = ("schedule.steps=5", "checkpoint.every=2", "logging.every=5", "batch.global_batch_size=4")
    run_recipe(data, "instruct", tmp_path / "run", *small)
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [3, 5]  # a line of its own, though only each fifth step has one
    assert all(line["checkpoint_seconds"] >= pause for line in lines)


def test_a_stopped_run_goes_on_bit_for_bit(data: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    stop_after(data, tmp_path / "run", 1)
    stop_after(data, tmp_path / "run", 2)
    finished, printed = run_recipe(data, "instruct", tmp_path / "run")
    assert finished and "resumes after step 2 of 3" in printed
    assert curve(tmp_path / "run") == curve(whole["instruct"])
    one, other = (
        AutoModelForImageTextToText.from_pretrained(run / "checkpoint") for run in (tmp_path / "run", whole["instruct"])
    )
    for first, second in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_with_muon_resumes_bit_for_bit(precision: str, data: Path, tmp_path: Path) -> None:
    muon = ("optimizer.vision_optimizer=muon", f"precision={precision}")
    run_recipe(data, "instruct", tmp_path / "whole", *muon)
    stop_after(data, tmp_path / "run", 2, *muon)
    run_recipe(data, "instruct", tmp_path / "run", *muon)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_after_sigkill_and_exits_0_after_sigterm(data: Path, tmp_path: Path) -> None:
    overrides = ["schedule.steps=8", "checkpoint.every=2", "checkpoint.asynchronous=true", "data.workers=1"]
    run_recipe(data, "instruct", tmp_path / "whole", *overrides)
    out = tmp_path / "run"
    command = [sys.executable, "-m", "owl2", "train", str(data / "instruct.yaml"), f"out={out}", *overrides]
    for lines, number, code in ((3, signal.SIGKILL, -signal.SIGKILL), (6, signal.SIGTERM, 0)):
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)
        while process.poll() is None and (not (out / "metrics.jsonl").exists() or len(curve(out)) < lines):
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(120) == code
        assert len(curve(out)) < 8
    run_recipe(data, "instruct", out, *overrides)
    assert curve(out) == curve(tmp_path / "whole")
