"""The tables of a report, in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from owl2.analysis.statistics import Interval

if TYPE_CHECKING:
    from .grid import Column, Grid
    from .measured import Measured
    from .tested import Tested

_CONTRASTS = (
    "contrast",
    "kind",
    "n",
    "difference",
    "95% BCa over seeds",
    "95% over seeds and questions",
    "p (sign flip)",
    "p (Holm)",
    "p (TOST)",
    "finding",
)
_COSTS = ("condition", "stage", "parameters", "trained", "MFLOP a sample", "samples", "seconds (mean)")


def result_table(grid: Grid, measured: Measured) -> list[str]:
    """Mean and sample deviation over seeds of each condition; the paper's rows below."""
    rows = [
        [
            *(level for _, level in levels),
            *(_mean_and_deviation(column, measured, dict(levels), sorted(by_seed)) for column in grid.columns),
            str(len(by_seed)),
        ]
        for levels, by_seed in measured.cells.items()
    ]
    lines = markdown([*grid.factors, *(column.title for column in grid.columns), "seeds"], rows)
    for title, published in grid.published.items():
        headings = list(dict.fromkeys(key for row in published.values() for key in row))
        lines += [f"As published ({title}; other data, other sizes, one seed):", ""]
        lines += markdown(
            ["", *headings],
            ([name, *(f"{row[key]:g}" if key in row else "" for key in headings)] for name, row in published.items()),
        )
    return lines


def _mean_and_deviation(column: Column, measured: Measured, levels: Mapping[str, str], seeds: Sequence[int]) -> str:
    values = [value for seed in seeds if (value := measured.value(levels, seed, column.metric)) is not None]
    factor, digits = (100, 1) if column.percent else (1, 3)
    mean = f"{factor * statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {factor * statistics.stdev(values):.{digits}f}"


def cost_table(measured: Measured) -> list[str]:
    """Parameters, operations and time of each condition, which may also explain a difference."""
    rows = []
    for levels, by_seed in measured.cells.items():
        for stage, facts in next(iter(by_seed.values()))["stages"].items():
            seconds = [cell["stages"][stage]["seconds"] for cell in by_seed.values()]
            known = [value for value in seconds if value is not None]
            rows.append(
                [
                    ", ".join(level for _, level in levels),
                    stage,
                    f"{facts['parameters']:,}",
                    f"{facts['trained']:,}",
                    f"{facts['flops_per_sample'] / 1e6:,.1f}",
                    f"{facts['samples']:,}",
                    f"{statistics.fmean(known):.0f}" if known else "",
                ]
            )
    return markdown(_COSTS, rows)


def contrast_table(tested: Sequence[Tested]) -> list[str]:
    """Every contrast with its interval and tests; p values of exploratory ones are not corrected.

    One seed has neither deviation nor interval, nor a test of equivalence.
    """
    return markdown(_CONTRASTS, map(_contrast_row, tested)) if tested else []


def _contrast_row(entry: Tested) -> list[str]:
    compared, contrast = entry.comparison, entry.contrast
    return [
        f"{contrast.title} ({contrast.metric}{', less is better' if contrast.better == 'less' else ''})",
        "primary" if contrast.primary else "exploratory",
        str(compared.seeds),
        f"{compared.mean:+.4f}{'' if compared.seeds < 2 else f' ± {compared.deviation:.4f}'}",
        _interval(compared.over_seeds),
        "" if compared.over_questions is None else _interval(compared.over_questions),
        f"{compared.sign_flip_p:.4f}",
        f"{entry.corrected_p:.4f}" if contrast.primary else "",
        "" if compared.seeds < 2 else f"{compared.equivalence_p:.4f} (±{contrast.margin:g})",
        entry.verdict,
    ]


def _interval(interval: Interval) -> str:
    return "" if math.isnan(interval.low) else f"[{interval.low:+.4f}, {interval.high:+.4f}]"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table and an empty line."""
    lines = [headings, ["---"] * len(headings), *rows]
    return [*(f"| {' | '.join(cells)} |" for cells in lines), ""]
