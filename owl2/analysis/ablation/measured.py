"""The metrics of the cells of a grid, as they were saved."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from owl2.files import read_json_object

from .grid import Grid, conditions, terms_of

Levels = tuple[tuple[str, str], ...]


class Measured(NamedTuple):
    """The metrics of the cells that are finished, by their levels and seed; conditions in the order of the grid."""

    cells: dict[Levels, dict[int, dict[str, Any]]]

    def value(self, levels: Mapping[str, str], seed: int, metric: str) -> float | None:
        """A metric of a cell; None where the cell is missing.

        Raises:
            ValueError: The cell has no such metric.
        """
        cell = self.cells.get(tuple(levels.items()), {}).get(seed)
        if cell is None:
            return None
        terms = terms_of(metric)
        for term in terms:
            if term not in cell["metrics"]:
                raise ValueError(
                    f"no cell has the metric {term}; there are {', '.join(sorted(cell['metrics'])) or 'none'}"
                )
        first, *second = (float(cell["metrics"][term]) for term in terms)
        return first - sum(second)


def load_measured(grid: Grid, folder: Path) -> Measured:
    """Reads the metrics of a grid.

    Raises:
        ValueError: There are none, or there are metrics of a cell that the grid does not have.
    """
    files = sorted((folder / "cells").glob("*.json"))
    if not files:
        raise ValueError(f"{folder} has no metrics of cells: run the grid first")
    cells: dict[Levels, dict[int, dict[str, Any]]] = defaultdict(dict)
    for file in files:
        cell = read_json_object(file, "the metrics of a cell")
        levels = {factor: cell["levels"].get(factor) for factor in grid.factors}
        if levels != cell["levels"]:
            raise ValueError(f"{file} is of another grid: its factors are {', '.join(cell['levels'])}")
        if all(level in grid.factors[factor] for factor, level in levels.items()) and cell["seed"] in grid.seeds:
            cells[tuple(levels.items())][cell["seed"]] = cell
    order = [tuple(levels.items()) for levels in conditions(grid)]
    return Measured({levels: cells[levels] for levels in order if levels in cells})


def missing_cells(grid: Grid, measured: Measured) -> list[str]:
    """Cells of the grid that have no metrics."""
    return [
        f"{', '.join(levels.values())} seed {seed}"
        for levels in conditions(grid)
        for seed in grid.seeds
        if seed not in measured.cells.get(tuple(levels.items()), {})
    ]
