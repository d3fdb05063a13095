"""Histograms of what `stats.py` counts: one picture a value, the sources stacked."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from owl2.figures import as_written, save_figure

from .stats import SourceStats

_FEW = 30  # different values that get a bar each; more are binned by logarithm


def draw_stats(sources: Mapping[str, SourceStats], directory: Path) -> list[Path]:
    """Writes `turns.png`, `images.png`, ... into a directory, which is created if missing.

    Values that are 0 everywhere are left out.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("matplotlib is needed to draw: pip install 'owl2[quickstart]'") from error
    directory.mkdir(parents=True, exist_ok=True)
    colors = [colormaps["tab20"](number % 20) for number in range(len(sources))]
    written = []
    for name in next(iter(sources.values())).values:
        values = [np.frombuffer(stats.values[name], np.int64) for stats in sources.values()]
        most = max(int(each.max()) for each in values)
        if most == 0:
            continue
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(xlabel=f"{name} of a record", ylabel="records")
        axes.hist(
            values,
            bins=_edges(most).tolist(),
            stacked=True,
            label=[as_written(source) for source in sources],
            color=colors,
        )
        if most > _FEW:
            axes.set_xscale("symlog", linthresh=1)
        axes.legend(fontsize="small")
        path = directory / f"{name.replace(' ', '-')}.png"
        save_figure(figure, path, dpi=120)
        written.append(path)
    return written


def _edges(most: int) -> np.ndarray:
    """Edges of the bars for values from 0 to `most`."""
    if most <= _FEW:
        return np.arange(most + 2) - 0.5
    return np.unique(np.concatenate(([0], np.geomspace(1, most + 1, 40).round())))
