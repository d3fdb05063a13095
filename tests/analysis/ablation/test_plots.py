"""The plots of a grid name its levels and columns as they are."""

import warnings

from owl2.analysis.ablation.grid import Grid
from owl2.analysis.ablation.measured import Measured
from owl2.analysis.ablation.plots import plot_columns


def test_levels_and_titles_with_formulas_are_drawn(tmp_path):
    level = r"$\frac{$ 色"
    grid = Grid(
        title="Formulas",
        question="Are they drawn?",
        stages={"pretrain": {"recipe": "a.yaml"}},
        factors={"arm": {level: {}}},
        seeds=[0],
        measure={"test": {"task": "easy_vqa"}},
        columns=[{"metric": "test.accuracy", "title": "$x$ 色", "percent": True}],
    )
    measured = Measured({(("arm", level),): {0: {"metrics": {"test.accuracy": 0.5}}}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ((title, file),) = plot_columns(grid, measured, tmp_path)
    assert title == "$x$ 色" and file.stat().st_size > 1000
