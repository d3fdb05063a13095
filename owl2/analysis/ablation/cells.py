"""A cell of a grid: its stages trained, or found trained, its model measured, everything in one small JSON file."""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from owl2.checkpoints.loading import load_for_chat
from owl2.evaluation.inference.ranks import Ranks
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.prediction_files import PREDICTIONS
from owl2.evaluation.results.scoring import score_directory
from owl2.evaluation.runner import predict
from owl2.evaluation.tasks import task_named
from owl2.files import read_json_object, write_whole
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor
from owl2.stop_signal import StopRequested
from owl2.training.cost.estimate import recipe_cost
from owl2.training.recipe.schema import Recipe
from owl2.training.run_directory import RunDirectory

from .grid import Cell, StageRun
from .held_out_loss import held_out_loss
from .measurement import Measurement
from .ranks import train_on_ranks


class Busy(Exception):
    """Another process works on this cell or on a stage that it shares."""


def metrics_file(folder: Path, cell: Cell) -> Path:
    """The file of a cell's metrics."""
    return folder / "cells" / f"{cell.name}.json"


def read_metrics(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The metrics of a cell, if it is finished.

    Raises:
        ValueError: The file belongs to another cell: the recipes or the measurements have changed since.
    """
    path = metrics_file(folder, cell)
    if not path.is_file():
        return None
    found = read_json_object(path, "the metrics of a cell")
    if found["key"] != cell.key:
        raise ValueError(
            f"{path} was measured with other recipes or measurements than those of this grid ({cell.condition}, seed "
            f"{cell.seed}): choose another folder"
        )
    return found


def run_cell(
    cell: Cell, measure: Mapping[str, Measurement], work: Path, folder: Path, console: Console, ranks: int = 1
) -> None:
    """Trains and measures a cell, and writes its metrics; what other cells share and is done is used as it is.

    Args:
        work: Run directories of the stages and predictions.
        folder: The folder of the metrics.
        ranks: GPUs of this machine that share the training of a stage.

    Raises:
        Busy: Another process works on it, or on a stage of it.
        StopRequested: It was asked to stop, and saved what it had.
        ValueError: A stage cannot be trained.
    """
    with _only_process(work / f".{cell.name}.lock"):
        if read_metrics(folder, cell) is not None:  # another process has just finished it
            return
        model = None
        for stage in cell.stages:
            model = _train(stage, model, work, console, ranks)
        metrics, correct = _measure(cell.stages, measure, work, work / "predictions" / f"{cell.name}-{cell.key[:12]}")
        stages = {stage.name: _facts(stage, work / stage.directory) for stage in cell.stages}
        for name, facts in stages.items():
            metrics |= {f"{name}.{key}": value for key, value in facts.pop("evaluation").items()}
        found = {
            "levels": cell.levels,
            "seed": cell.seed,
            "key": cell.key,
            "metrics": metrics,
            "correct": correct,
            "stages": stages,
        }
        path = metrics_file(folder, cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(found, indent=1) + "\n")


@contextmanager
def _only_process(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, blocking=False):
            yield
    except Timeout as error:
        raise Busy(str(lock)) from error


def _train(stage: StageRun, start: Path | None, work: Path, console: Console, ranks: int) -> Path:
    """The model that a stage ends with."""
    directory = RunDirectory(work / stage.directory)
    if not directory.is_finished:
        with _only_process(work / f".{stage.directory}.lock"):
            recipe = stage.recipe(start, directory.path)
            began = time.perf_counter()
            try:
                finished = train_on_ranks(recipe, ranks, console)
            finally:
                _add_seconds(directory.path, time.perf_counter() - began)
            if not finished:
                raise StopRequested
    return directory.model


def _add_seconds(directory: Path, seconds: float) -> None:
    if directory.is_dir():
        with (directory / "seconds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(round(seconds, 2)) + "\n")


def _facts(stage: StageRun, directory: Path) -> dict[str, Any]:
    """What a stage cost, and the last line of its evaluations."""
    run = RunDirectory(directory)
    rows = json.loads(run.table.read_text(encoding="utf-8"))
    seconds = directory / "seconds.jsonl"
    measured = run.evaluations.read_text(encoding="utf-8").splitlines() if run.evaluations.is_file() else []
    evaluation = flat(json.loads(measured[-1])) if measured else {}
    evaluation.pop("step", None)
    if "loss" in evaluation:
        evaluation["perplexity"] = math.exp(evaluation["loss"])
    steps = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    recipe = run.read_recipe()
    assert recipe is not None, "the run is finished"
    cost = recipe_cost(recipe, 1)
    return {
        "directory": stage.directory,
        "parameters": sum(row["parameters"] for row in rows),
        "trained": sum(row["trained"] for row in rows),
        "flops_per_sample": cost.flops.total,
        "samples": steps[-1]["samples"] if steps else 0,
        "final_loss": steps[-1]["loss"] if steps else None,
        "seconds": sum(json.loads(line) for line in seconds.read_text().splitlines()) if seconds.is_file() else None,
        "evaluation": evaluation,
    }


def _measure(
    stages: Sequence[StageRun], measure: Mapping[str, Measurement], work: Path, out: Path
) -> tuple[dict[str, float], dict[str, str]]:
    """The numbers of all summaries by dotted name, and of each benchmark which samples were right, as bits."""
    metrics: dict[str, float] = {}
    correct: dict[str, str] = {}
    runs = {stage.name: RunDirectory(work / stage.directory) for stage in stages}
    for stage, run in runs.items():
        entries = {name: entry for name, entry in measure.items() if (entry.after or stages[-1].name) == stage}
        if not entries:
            continue
        loaded, processor = load_for_chat(run.model, base=_base_of(run))
        for name, entry in entries.items():
            if entry.loss is not None:
                recipe = _for_all_lengths(run, runs.values())
                summary = held_out_loss(loaded, processor, entry.loss, recipe, entry.batch_size, out / name)
            else:
                summary, correct[name] = _benchmark(loaded, processor, entry, out / name)
            metrics |= {f"{name}.{key}": value for key, value in flat(summary).items()}
    return metrics, correct


def _base_of(run: RunDirectory) -> str | Path | None:
    """The model below the adapters that a stage trained, if it did."""
    recipe = run.read_recipe()
    assert recipe is not None, "the run is finished"
    return None if recipe.train.lora is None else recipe.model.checkpoint or run.initial


def _benchmark(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, entry: Measurement, out: Path
) -> tuple[dict[str, Any], str]:
    """The summary of a benchmark, and which samples were right, as bits."""
    assert entry.task is not None, "a measurement without a loss has a task"
    settings = Settings(Path("data"), out, entry.split, entry.prompt, limit=entry.limit)
    planned = plan_task(task_named(entry.task), settings, {})
    predict(planned, model, processor, Ranks(), entry.batch_size, on_batch=lambda done, samples: None)
    result = score_directory(planned.directory)
    summary: dict[str, Any] = result["protocols"][result["default_protocol"]]["summary"]
    return summary, packed(_scores_of(planned.directory / PREDICTIONS))


def _for_all_lengths(run: RunDirectory, runs: Iterable[RunDirectory]) -> Recipe:
    """The recipe of a stage, with room for the longest samples of any: stage 1 may cut texts where stage 2 does not."""
    recipes = [recipe for each in runs if (recipe := each.read_recipe()) is not None]
    recipe = run.read_recipe()
    assert recipe is not None, "the run is finished"
    longest = max(each.data.max_length for each in recipes)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": longest})})


def _scores_of(predictions: Path) -> list[float]:
    lines = predictions.read_text(encoding="utf-8").split("\n")[1:-1]  # not splitlines: a text may hold U+2028
    return [json.loads(line).get("score") or 0.0 for line in lines]


def flat(summary: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a nested mapping by dotted name."""
    found: dict[str, float] = {}
    for key, value in summary.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = float(value)
    return found


def packed(scores: Sequence[float]) -> str:
    """Which samples were right (a score of at least 0.5), as hexadecimal digits of their bits behind a leading 1."""
    bits = "1" + "".join("1" if score >= 0.5 else "0" for score in scores)
    return f"{int(bits, 2):x}"


def unpacked(digits: str) -> list[int]:
    """What `packed` packed."""
    return [int(bit) for bit in f"{int(digits, 16):b}"[1:]]
