"""What is written about steps: a line every N steps and whenever there is something to tell, by the first rank."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from owl2.training.data.loader import Counts
from owl2.training.monitoring.benchmark_scores import TaskScore
from owl2.training.monitoring.metrics_logger import Evaluation, MetricsLogger, StepReport
from owl2.training.monitoring.validation_loss import HeldOutLoss
from owl2.training.run_directory import RunDirectory

COUNTS = Counts(supervised=40, tokens=90, positions=100, samples=4, images=3, turns=5)
MEASURED = Evaluation(HeldOutLoss(1.5, 30, 4), {"pope": TaskScore("f1", 0.75, 12, "pope_official", {"f1": 0.75})})


def report(step: int, **changes: Any) -> StepReport:
    usual: dict[str, Any] = dict(samples=4 * step, tokens=90 * step, seconds=0.5, data_seconds=0.1, skipped=None)
    usual |= dict(loss=2.0 / step, gradient_norm=1.25, learning_rate=1e-4, mfu=None, memory_bytes=2**30)
    return StepReport(step=step, counts=COUNTS, **{**usual, **changes})


def written(directory: Path, reports: list[StepReport], first_rank: bool = True, every: int = 3) -> tuple[list, str]:
    """The lines of `metrics.jsonl`, and what was printed where there is no terminal."""
    printed = io.StringIO()
    run = RunDirectory(directory)
    with MetricsLogger(run, Console(file=printed, width=200), 6, every, False, first_rank) as logger:
        for each in reports:
            logger.step(each)
    lines = run.metrics.read_text().splitlines() if run.metrics.exists() else []
    return [json.loads(line) for line in lines], printed.getvalue()


def test_every_n_steps_there_is_a_line_and_for_what_must_be_told_another(tmp_path: Path) -> None:
    told = {2: {"skipped": "the loss is nan"}, 4: {"checkpoint_seconds": 1.5}, 5: {"scores": {"pope_f1": 0.5}}}
    lines, printed = written(tmp_path, [report(step, **told.get(step, {})) for step in range(1, 7)])
    assert [line["step"] for line in lines] == [2, 3, 4, 5, 6]
    assert [line.get("skipped") for line in lines] == ["the loss is nan", *[None] * 4]
    assert lines[2]["checkpoint_seconds"] == 1.5 and lines[3]["pope_f1"] == 0.5
    assert printed.startswith("step 6/6  loss ") and printed.count("\n") == 1  # the last step alone: seconds went by


def test_a_line_has_rates_and_shares_of_the_counts(tmp_path: Path) -> None:
    ((line,), _) = written(tmp_path, [report(1, mfu=0.41)], every=1)
    assert line == {
        "step": 1,
        "loss": 2.0,
        "grad_norm": 1.25,
        "learning_rate": 1e-4,
        "samples": 4,
        "tokens": 90,
        "supervised_tokens": 40,
        "images": 3,
        "packing_efficiency": 0.9,
        "seconds": 0.5,
        "data_seconds": 0.1,
        "tokens_per_second": 180.0,
        "images_per_second": 6.0,
        "memory_bytes": 2**30,
        "mfu": 0.41,
    }


def test_other_ranks_write_and_say_nothing(tmp_path: Path) -> None:
    assert written(tmp_path, [report(step) for step in range(1, 7)], first_rank=False) == ([], "")


def test_a_report_is_the_same_after_it_was_kept_as_json() -> None:
    whole = report(3, skipped="the loss is nan", checkpoint_seconds=0.25)
    assert StepReport.of_state(json.loads(json.dumps(whole.to_state()))) == whole


def test_measurements_are_lines_of_their_own_and_said_in_one(tmp_path: Path) -> None:
    printed, run = io.StringIO(), RunDirectory(tmp_path)
    with MetricsLogger(run, Console(file=printed, width=200), 6, 1, False, True) as logger:
        logger.evaluation(4, MEASURED)
    (line,) = [json.loads(line) for line in run.evaluations.read_text().splitlines()]
    assert (line["step"], line["loss"], line["tasks"]["pope"]["summary"]) == (4, 1.5, {"f1": 0.75})
    assert printed.getvalue() == "step 4: held-out loss 1.5000 (4 samples), pope f1 0.750 (12 samples)\n"


def test_without_tensorboard_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"owl2\[train\]"):
        MetricsLogger(RunDirectory(tmp_path), Console(), 6, 1, True, True)
