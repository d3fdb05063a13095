"""Reports of a run while it trains: a progress line, metrics as JSON lines, and TensorBoard on request."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from owl2.files import errors_name
from owl2.training.data.loader import Counts
from owl2.training.run_directory import RunDirectory

from .benchmark_scores import TaskScore
from .validation_loss import HeldOutLoss

LINE_SECONDS = 30.0
"""The time between two lines of progress where the output is not a terminal."""


class Evaluation(NamedTuple):
    """The measurements after a step: the loss of held-out samples, and scores by the name of the benchmark."""

    held_out: HeldOutLoss | None
    tasks: Mapping[str, TaskScore]

    def scores(self) -> dict[str, float]:
        """One number for each measurement, by its name in `metrics.jsonl`."""
        loss = {} if self.held_out is None else {"validation_loss": self.held_out.loss}
        return loss | {f"{name}_{task.measure}": task.score for name, task in self.tasks.items()}

    def to_dict(self) -> dict[str, Any]:
        """The line in `evaluations.jsonl` without the step."""
        loss = {} if self.held_out is None else self.held_out._asdict()
        tasks = {name: task._asdict() for name, task in self.tasks.items()}
        return loss | ({"tasks": tasks} if tasks else {})

    def __str__(self) -> str:
        parts = [
            f"{name} {task.measure} {task.score:.3f} ({task.samples} samples)" for name, task in self.tasks.items()
        ]
        if self.held_out is not None:
            parts.insert(0, f"held-out loss {self.held_out.loss:.4f} ({self.held_out.samples} samples)")
        return ", ".join(parts)


class StepReport(NamedTuple):
    """The report of a step.

    Attributes:
        step: Number of the step, from 1 on.
        loss: Mean over the supervised tokens of the global batch.
        gradient_norm: Norm of the gradient before clipping.
        counts: Counts of the global batch.
        samples, tokens: Numbers of the run so far.
        seconds: Time of the step; in `data_seconds` of it the step waited for data.
        skipped: Reason why the optimizer did not take the step.
        mfu: Share of the device's peak, where that is known.
        memory_bytes: The most that the device held; on a CPU, what the process holds.
        checkpoint_seconds: Time for which training stood still for a checkpoint since the step before.
        scores: Scores measured after the step; see `Evaluation`.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    counts: Counts
    samples: int
    tokens: int
    seconds: float
    data_seconds: float
    skipped: str | None
    mfu: float | None
    memory_bytes: int
    checkpoint_seconds: float = 0.0
    scores: Mapping[str, float] = {}

    def to_state(self) -> dict[str, Any]:
        """The report as JSON, before anything was measured after the step; see `of_state`."""
        return self._asdict() | {"counts": list(self.counts), "scores": {}}

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> "StepReport":
        """The report whose state `to_state` returned."""
        return cls(**{**state, "counts": Counts(*state["counts"])})

    def to_dict(self) -> dict[str, Any]:
        """The line in `metrics.jsonl`."""
        line: dict[str, Any] = {
            "step": self.step,
            "loss": self.loss,
            "grad_norm": self.gradient_norm,
            "learning_rate": self.learning_rate,
            "samples": self.samples,
            "tokens": self.tokens,
            "supervised_tokens": self.counts.supervised,
            "images": self.counts.images,
            "packing_efficiency": round(self.counts.tokens / max(1, self.counts.positions), 4),
            "seconds": round(self.seconds, 4),
            "data_seconds": round(self.data_seconds, 4),
            "tokens_per_second": round(self.counts.tokens / self.seconds, 1),
            "images_per_second": round(self.counts.images / self.seconds, 1),
            "memory_bytes": self.memory_bytes,
        }
        if self.mfu is not None:
            line["mfu"] = round(self.mfu, 4)
        if self.checkpoint_seconds:
            line["checkpoint_seconds"] = round(self.checkpoint_seconds, 4)
        if self.skipped is not None:
            line["skipped"] = self.skipped
        return {**line, **self.scores}


class MetricsLogger:
    """Writes reports on the first rank, and nothing on the others; a context manager around the training loop.

    A terminal shows a bar with two lines; where the output goes to a file, a line is printed every `LINE_SECONDS`.

    Args:
        every: Steps between two lines of metrics.
        tensorboard: Write events for TensorBoard too.

    Raises:
        ImportError: TensorBoard is requested and not installed.
    """

    def __init__(
        self, directory: RunDirectory, console: Console, steps: int, every: int, tensorboard: bool, first_rank: bool
    ) -> None:
        self.directory, self.console, self.steps, self.every = directory, console, steps, every
        self.first_rank = first_rank
        self._events = _event_writer(directory.path / "tensorboard") if tensorboard and first_rank else None
        self._smoothed: float | None = None
        self._printed = time.monotonic()
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            auto_refresh=False,
        )
        self._bar = self._progress.add_task("training", total=steps)
        self._status = Text()
        self._live = Live(Group(self._progress, self._status), console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "MetricsLogger":
        if self.first_rank and self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        if self.console.is_terminal and self._status.plain:  # the bar is gone now
            self.say(self._status.plain)
        if self._events is not None:
            self._events.close()

    def begin_at(self, step: int) -> None:
        """Notes the number of steps after which the run resumes."""
        self._progress.update(self._bar, completed=step)

    def step(self, report: StepReport) -> None:
        """Reports a step."""
        if not self.first_rank:
            return
        if report.skipped is None:
            previous = report.loss if self._smoothed is None else self._smoothed
            self._smoothed = 0.95 * previous + 0.05 * report.loss
        self._progress.update(self._bar, completed=report.step)
        self._status.plain = self._text(report)
        due = time.monotonic() - self._printed > LINE_SECONDS or report.step == self.steps
        if not self.console.is_terminal and due:
            self.say(f"step {report.step}/{self.steps}  {self._status.plain}")
            self._printed = time.monotonic()
        told = report.skipped is not None or report.scores or report.checkpoint_seconds
        if report.step % self.every == 0 or told:
            self._write(self.directory.metrics, report.to_dict())
            self._add_events(report.step, report.to_dict())

    def evaluation(self, step: int, found: Evaluation) -> None:
        """Reports the measurements after a step, whose scores also belong to the report of the step."""
        if not self.first_rank:
            return
        self._write(self.directory.evaluations, {"step": step} | found.to_dict())
        self.say(f"step {step}: {found}")

    def evaluating(self, task: str, done: int, samples: int) -> None:
        """Shows the progress of a benchmark on a terminal."""
        self._status.plain = f"{task}: {done}/{samples} samples of this rank answered"

    def say(self, text: str) -> None:
        if self.first_rank:
            self.console.print(text, highlight=False, soft_wrap=True)

    def _text(self, report: StepReport) -> str:
        loss = "" if self._smoothed is None else f"loss {self._smoothed:.3f}  "
        parts = [
            f"{loss}rate {report.learning_rate:.1e}  norm {report.gradient_norm:.2f}",
            f"{report.counts.tokens / report.seconds:,.0f} tokens/s",
            f"{report.counts.images / report.seconds:,.0f} images/s",
            f"{report.memory_bytes / 2**30:.1f} GiB",
            f"data wait {report.data_seconds / report.seconds:.0%}",
            f"rows {report.counts.tokens / max(1, report.counts.positions):.0%} full",
        ]
        if report.mfu is not None:
            parts.insert(3, f"MFU {report.mfu:.0%}")
        if report.checkpoint_seconds:
            parts.append(f"stood still {report.checkpoint_seconds:.1f} s for a checkpoint")
        return "  ".join(parts)

    def _write(self, file: Path, line: dict[str, Any]) -> None:
        with errors_name(file), file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(line) + "\n")

    def _add_events(self, step: int, values: dict[str, Any]) -> None:
        if self._events is None:
            return
        for name, value in values.items():
            if isinstance(value, int | float) and name != "step":
                self._events.add_scalar(name, value, step, walltime=time.time())


def _event_writer(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("logging.tensorboard needs the extra 'train': pip install 'owl2[train]'") from error
    return SummaryWriter(str(directory))
