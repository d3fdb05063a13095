"""Scores on benchmarks while a model trains: the tasks of `owl2 evaluate`, on the model as it is after a step.

Every rank answers its share of the samples with a whole model of its own (`UnshardedModel`), so that ranks need not
take equally many steps in generation, and the model in training is not touched.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import distributed as dist

from owl2 import __version__
from owl2.evaluation.inference.ranks import Ranks
from owl2.evaluation.plan import Settings, TaskPlan, plan_task
from owl2.evaluation.results.scoring import score_directory, value_at
from owl2.evaluation.runner import known_predictions, predict
from owl2.evaluation.tasks import task_named
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor
from owl2.training.distributed.mesh import Mesh
from owl2.training.distributed.unsharded_model import UnshardedModel
from owl2.training.recipe.operation import TaskSettings

_LONGEST_WAIT = timedelta(days=7)
"""The wait for the slowest share. A stalled rank is found by its heartbeats (`owl2.training.monitoring.watchdog`)."""


class PlannedTask(NamedTuple):
    """A benchmark with its samples, complete and with their files in place."""

    prediction: TaskPlan
    batch_size: int


class TaskScore(NamedTuple):
    """The score of the model on a benchmark.

    Attributes:
        measure, score: The measure by which the benchmark is known, under the first protocol that needs no judge.
        summary: All measures of that protocol.
    """

    measure: str
    score: float
    samples: int
    protocol: str
    summary: Mapping[str, Any]


def plan_tasks(tasks: Mapping[str, TaskSettings], directory: Path) -> list[PlannedTask]:
    """Reads the samples of benchmarks before a model is loaded.

    Args:
        directory: Directory of the predictions, which has a folder for each step.

    Raises:
        ValueError: Files or images are missing or broken, or the answers of a split are not public.
    """
    versions = {"owl2": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    planned = []
    for name, own in tasks.items():
        settings = Settings(Path(own.data), directory, own.split, own.prompt, own.suffix, own.limit)
        try:
            prediction = plan_task(task_named(name), settings, {"versions": versions})
        except ValueError as error:
            raise ValueError(f"evaluate.tasks.{name}: {error}") from error
        if all(sample.gold is None for sample in prediction.samples):
            raise ValueError(
                f"evaluate.tasks.{name}: the answers of the split {prediction.header['split']} are not public, so "
                "there is no score; take another split"
            )
        planned.append(PlannedTask(prediction, own.batch_size))
    return planned


class BenchmarkScores:
    """The benchmarks of a run.

    Args:
        model: The model before it is parallelized; see `UnshardedModel`.
        dtype: Precision in which the run computes.
    """

    def __init__(
        self,
        tasks: list[PlannedTask],
        model: Owl2ForConditionalGeneration,
        processor: Owl2Processor,
        dtype: torch.dtype,
        mesh: Mesh,
    ) -> None:
        self.tasks, self.processor, self.dtype = tasks, processor, dtype
        self._whole, self._ranks = UnshardedModel(model), _RunRanks(mesh)

    def measure(
        self,
        model: Owl2ForConditionalGeneration,
        step: int,
        on_batch: Callable[[int, str, int, int], None],
        stopped: Callable[[], bool],
        goes_on: bool,
    ) -> dict[str, TaskScore]:
        """Answers and scores all benchmarks; every rank calls it.

        Args:
            model: The model in training.
            on_batch: Called with number and title of the benchmark, the number of samples answered and their total.
            stopped: Whether to stop; asked before each batch.
            goes_on: Whether to continue with the answers that the model gave after this step before it was stopped.

        Returns:
            Scores by the name of the benchmark on the first rank, none on the others.

        Raises:
            StopRequested: A rank was asked to stop.
            ValueError: An image cannot be read, or a prompt does not fit the context of the model.
        """
        found = {}
        with self._whole.of(model, self.dtype) as whole:
            for number, (prediction, batch_size) in enumerate(self.tasks):
                own = self._at_step(prediction, step)
                if not (goes_on and _fits(own)):
                    self._begin(own.directory)
                tell = partial(on_batch, number, own.task.title)
                tell(0, len(self._ranks.share(own.samples)))
                predict(own, whole, self.processor, self._ranks, batch_size, tell, stopped=stopped)
                if self._ranks.is_first:
                    found[own.task.name] = _task_score(own, score_directory(own.directory))
        return found

    def _at_step(self, prediction: TaskPlan, step: int) -> TaskPlan:
        run, name = prediction.directory.parents[1], prediction.task.name
        model = {"name": run.name, "step": step, "dtype": str(self.dtype).removeprefix("torch.")}
        return replace(
            prediction,
            header={**prediction.header, "model": model},
            directory=prediction.directory.with_name(f"step-{step:08d}") / name,
        )

    def _begin(self, directory: Path) -> None:
        """Removes the predictions of a run that stopped after this step and then resumed from an earlier checkpoint."""
        if self._ranks.is_first and directory.exists():
            shutil.rmtree(directory)
        self._ranks.wait()


def _fits(prediction: TaskPlan) -> bool:
    """Whether existing predictions have the same setting, which a recipe may change when a run resumes."""
    try:
        known_predictions(prediction)
    except ValueError:
        return False
    return True


class _RunRanks(Ranks):
    """The ranks of a run, whose process group exists already."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()
        self.rank, self.size = mesh.rank, mesh.size
        self.group = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)


def _task_score(prediction: TaskPlan, result: Mapping[str, Any]) -> TaskScore:
    usable = prediction.task.protocols_for(prediction.header["prompt"])
    protocol = next(name for name in usable if name in result["protocols"])
    summary = result["protocols"][protocol]["summary"]
    try:
        measure, score = prediction.task.primary_metric, value_at(summary, prediction.task.primary_metric)
    except KeyError:  # the primary_metric is that of another protocol
        measure, score = next((name, value) for name, value in summary.items() if isinstance(value, float))
    return TaskScore(measure, float(score), result["samples"], protocol, summary)
