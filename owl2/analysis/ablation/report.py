"""What came out of a grid: a table in the paper's layout, the tests of its contrasts, plots of every seed.

Everything is computed from the saved metrics alone.
"""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from owl2.analysis.statistics import compare, holm
from owl2.analysis.tables import without_nan

from .cells import unpacked
from .grid import Contrast, Grid
from .measured import Measured, load_measured, missing_cells
from .plots import plot_columns
from .tables import contrast_table, cost_table, result_table
from .tested import Tested

SMOKE = "smoke test, not evidence"


def evaluate_contrasts(grid: Grid, measured: Measured) -> list[Tested]:
    """Every contrast of which at least one seed is complete; seeds in which a cell is missing are left out."""
    found = []
    for contrast in grid.contrasts:
        by_seed = {seed: _difference(contrast, measured, seed) for seed in grid.seeds}
        complete = {seed: value for seed, value in by_seed.items() if value is not None}
        if complete:
            by_question = _by_question(contrast, measured, list(complete))
            compared = compare(list(complete.values()), contrast.margin, by_question)
            found.append(Tested(contrast, list(complete), list(complete.values()), compared, compared.sign_flip_p))
    primary = [index for index, tested in enumerate(found) if tested.contrast.primary]
    for index, corrected in zip(primary, holm([found[i].comparison.sign_flip_p for i in primary]), strict=True):
        found[index] = found[index]._replace(corrected_p=corrected)
    return found


def _difference(contrast: Contrast, measured: Measured, seed: int) -> float | None:
    total = 0.0
    for sign, terms in ((1, contrast.plus), (-1, contrast.minus)):
        for levels in terms:
            value = measured.value(levels, seed, contrast.metric)
            if value is None:
                return None
            total += sign * value
    return total


def _by_question(contrast: Contrast, measured: Measured, seeds: Sequence[int]) -> list[Any] | None:
    """The differences of single questions for each seed, where the metric is a share of right answers."""
    measurement, _, key = contrast.metric.partition(".")
    if key != "accuracy":  # a difference ends in another word
        return None
    found = []
    for seed in seeds:
        total: Any = 0
        for sign, terms in ((1, contrast.plus), (-1, contrast.minus)):
            for levels in terms:
                correct = measured.cells[tuple(levels.items())][seed]["correct"].get(measurement)
                if correct is None:
                    return None
                total = total + sign * np.array(unpacked(correct))
        found.append(total)
    return found


def write_report(grid: Grid, folder: Path, smoke: bool = False) -> Path:
    """Writes `report.md`, `report.json` and the plots into a folder, from the metrics there.

    Raises:
        ValueError: There are no metrics, or they lack one that the grid shows.
    """
    measured = load_measured(grid, folder)
    tested = evaluate_contrasts(grid, measured)
    plots = plot_columns(grid, measured, folder)
    complete = sum(len(seeds) for seeds in measured.cells.values())
    lines = [f"# {grid.title}", ""]
    if smoke:
        lines += [f"**{SMOKE.capitalize()}.**", ""]
    lines += [*textwrap.wrap(grid.question, 120), "", f"{complete} cells, seeds {', '.join(map(str, grid.seeds))}.", ""]
    if missing := missing_cells(grid, measured):
        named = f"{', '.join(missing[:6])}{', ...' if missing[6:] else ''}"
        lines += [textwrap.fill(f"**Missing: {len(missing)} cells** ({named}).", 120), ""]
    lines += result_table(grid, measured) + cost_table(measured) + contrast_table(tested)
    lines += [f"![{title}]({file.name})\n" for title, file in plots]
    path = folder / "report.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(_as_json(tested), indent=1) + "\n", encoding="utf-8")
    return path


def _as_json(tested: Sequence[Tested]) -> list[dict[str, Any]]:
    return [
        {
            **entry.contrast.model_dump(mode="json"),
            **without_nan(entry.comparison._asdict()),
            "seeds": entry.seeds,
            "differences": entry.differences,
            "corrected_p": entry.corrected_p,
            "finding": entry.verdict,
        }
        for entry in tested
    ]
