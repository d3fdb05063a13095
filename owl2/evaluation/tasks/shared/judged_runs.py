"""Measures of several runs of a judge."""

from collections.abc import Mapping, Sequence
from typing import Any

from owl2.evaluation.judge.judge import mean_and_deviation


def summary_over_runs(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The mean of each measure over the runs that have it and, where there are several runs, its `deviations`.

    Raises:
        ValueError: No run has a measure, since the judge has answered nothing.
    """
    names = list(dict.fromkeys(name for run in runs for name in run))
    if not names:
        raise ValueError("the judge has no value for any of the answers: judge again")
    measures = {name: mean_and_deviation([run[name] for run in runs if name in run]) for name in names}
    summary: dict[str, Any] = {name: mean for name, (mean, _) in measures.items()}
    if len(runs) > 1:
        summary["deviations"] = {name: deviation for name, (_, deviation) in measures.items()}
    return summary
