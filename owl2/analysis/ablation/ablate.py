"""`owl2 ablate`: a grid checked, run and reported."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from owl2.evaluation.task import Prediction
from owl2.evaluation.tasks import task_named
from owl2.files import write_whole
from owl2.recipes import find_recipe
from owl2.training.recipe.data import SourceSettings

from .cells import flat
from .grid import Grid, expand, load_grid, select
from .held_out_loss import KEYS
from .measurement import Measurement
from .report import SMOKE, write_report
from .runner import run_cells

SNAPSHOT = "grid.yaml"
"""The grid that a folder of metrics belongs to."""


def ablate(
    path: Path,
    out: Path,
    console: Console,
    metrics: Path | None = None,
    only: Sequence[str] = (),
    smoke: bool = False,
    jobs: int = 1,
    report_only: bool = False,
    ranks: int = 1,
) -> bool:
    """Runs a grid, or resumes it, and writes its report.

    Args:
        path: The file of the grid.
        out: Where models are trained.
        metrics: Folder of the cells' metrics and of the report, `out` by default. It is small, and what it holds is
            not run again, so that it can be committed and a grid resumed from any clone.
        only: `FACTOR=LEVEL,LEVEL`.
        smoke: Run the short form, whose report says that it is no evidence.
        ranks: GPUs of this machine that share the training of a stage. Cells then run one after the other.
        report_only: Train nothing, and compute the report from the metrics that were saved.

    Returns:
        Whether all cells are done.

    Raises:
        ValueError: The grid is wrong, or the folder belongs to another one; raised before anything trains.
    """
    if jobs > 1 and ranks > 1:
        raise ValueError(f"{jobs} cells at a time, each on {ranks} ranks, would share GPUs: give --jobs or --ranks")
    whole = load_grid(path)
    grid = select(whole, only, smoke)
    folder = out if metrics is None else metrics
    _check_folder(folder, whole, smoke)
    if not report_only:
        cells = expand(grid, path.parent)
        check_metrics(grid)
        _keep(folder, whole, smoke)
        stages = {stage.directory for cell in cells for stage in cell.stages}
        console.print(f"{grid.title}: {len(cells)} cells, {len(stages)} stages to train", highlight=False)
        if smoke:
            console.print(SMOKE)
        if not run_cells(cells, grid.measure, out, folder, jobs, console, ranks):
            return False
    written = write_report(grid, folder, smoke)
    console.print(f"report: {written}{f' ({SMOKE})' if smoke else ''}", highlight=False, soft_wrap=True)
    return True


def _check_folder(folder: Path, grid: Grid, smoke: bool) -> None:
    file = folder / SNAPSHOT
    if not file.is_file():
        return
    there, now = yaml.safe_load(file.read_text(encoding="utf-8")), _snapshot(grid, smoke)
    differing = [key for key in {**there, **now} if there.get(key) != now.get(key)]
    if differing:
        raise ValueError(
            f"{folder} holds the metrics of another grid ({there.get('title')!r}): {differing[0]} differs. Choose "
            "another folder"
        )


def _keep(folder: Path, grid: Grid, smoke: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(_snapshot(grid, smoke), sort_keys=False, allow_unicode=True, width=120)
    write_whole(folder / SNAPSHOT, text)


def _snapshot(grid: Grid, smoke: bool) -> dict[str, Any]:
    return {"short_form": smoke, **grid.to_dict()}


def check_metrics(grid: Grid) -> None:
    """Refuses columns and contrasts that name a metric which no cell will have, as far as that is known beforehand.

    Raises:
        ValueError: There is one, or the source of a loss is missing.
    """
    for name, entry in grid.measure.items():
        if entry.loss is not None:
            _check_source(name, entry.loss.source)
    known = {name: keys for name, entry in grid.measure.items() if (keys := _keys(entry))}
    for metric in grid.metrics():
        name, _, key = metric.partition(".")
        if name in known and key not in known[name]:
            raise ValueError(f"no cell has the metric {metric}: {name} measures {', '.join(sorted(known[name]))}")


def _check_source(name: str, source: SourceSettings) -> None:
    if source.path is None or "://" in source.path:
        return
    if source.format == "mixture":
        find_recipe(source.path)
    elif not Path(source.path).exists():
        raise ValueError(f"{name} measures the loss of {source.path}, which was not found")


def _keys(entry: Measurement) -> set[str]:
    """Names of the numbers that a loss or benchmark gives, found with empty answers; none where choices are ranked."""
    if entry.loss is not None:
        return set(KEYS)
    assert entry.task is not None, "a measurement without a loss has a task"
    task = task_named(entry.task)
    split = task.chosen("split", entry.split)
    prompt = task.prompt_for(split, entry.prompt)
    samples = task.load(Path("data"), split, prompt)[: entry.limit]
    if any(sample.choices for sample in samples):
        return set()
    records = [Prediction(sample.id, sample.prompt, "", sample.gold, sample.details) for sample in samples]
    return set(flat(task.score(records, task.protocols_for(prompt)[0]).summary))
