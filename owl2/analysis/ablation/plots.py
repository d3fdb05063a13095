"""A plot a column of the table: every seed as a dot, the mean as a line, seeds joined across conditions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

from owl2.figures import as_written, save_figure

if TYPE_CHECKING:
    from .grid import Column, Grid
    from .measured import Measured

_DOT, _MEAN, _PAIR = "#3b6ea5", "#c0504d", "#b8b8b8"


def plot_columns(grid: Grid, measured: Measured, folder: Path) -> list[tuple[str, Path]]:
    """Draws `COLUMN.png` for each column and returns titles and files."""
    drawn = []
    for number, column in enumerate(grid.columns):
        name = column.metric.replace(" - ", "-minus-").replace(".", "-")  # no spaces, which break links
        file = folder / f"{number + 1}-{name}.png"
        save_figure(_plot(column, measured), file, dpi=110, bbox_inches="tight")
        drawn.append((column.title, file))
    return drawn


def _plot(column: Column, measured: Measured) -> Figure:
    names = ["\n".join(as_written(level) for _, level in levels) for levels in measured.cells]
    scale = 100 if column.percent else 1
    figure = Figure(figsize=(1.6 + 0.9 * len(names), 3.4))
    axes = figure.subplots()
    by_seed: dict[int, list[tuple[int, float]]] = {}
    for place, (levels, seeds) in enumerate(measured.cells.items()):
        values = []
        for seed in sorted(seeds):
            value = measured.value(dict(levels), seed, column.metric)
            if value is not None:
                values.append(scale * value)
                by_seed.setdefault(seed, []).append((place, scale * value))
        axes.plot([place - 0.25, place + 0.25], [sum(values) / len(values)] * 2, color=_MEAN, linewidth=2, zorder=3)
    for points in by_seed.values():
        places, values = [place for place, _ in points], [value for _, value in points]
        axes.plot(places, values, color=_PAIR, linewidth=0.7, zorder=1)
        axes.scatter(places, values, color=_DOT, s=16, zorder=2)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_ylabel(as_written(f"{column.title}{' (%)' if column.percent else ''}"), fontsize=9)
    axes.set_title(f"dots: seeds, joined where paired; line: mean; {column.better} is better", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
