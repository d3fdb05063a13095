"""The report of a grid: recomputable from the saved metrics, and honest about what is missing."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from owl2.analysis import statistics
from owl2.analysis.ablation.cells import flat, packed, unpacked
from owl2.analysis.ablation.grid import Grid
from owl2.analysis.ablation.measured import load_measured
from owl2.analysis.ablation.report import evaluate_contrasts, write_report
from owl2.analysis.statistics import sign_flip_p

SEEDS = list(range(8))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The intervals themselves are tested in test_statistics.py."""
    monkeypatch.setattr(statistics, "RESAMPLES", 499)


@pytest.fixture
def grid() -> Grid:
    factors: dict[str, Any] = {"arm": {"none": {}, "mam": {}}, "data": {"text": {}, "both": {}}}
    cell = {(arm, data): {"arm": arm, "data": data} for arm in ("none", "mam") for data in ("text", "both")}
    return Grid(
        title="Table 5, small",
        question="Does text gain from pictures?",
        stages={"pretrain": {"recipe": "a.yaml"}},
        factors=factors,
        seeds=SEEDS,
        measure={"test": {"task": "easy_vqa"}},
        columns=[
            {"metric": "test.accuracy", "title": "VQA", "percent": True},
            {"metric": "pretrain.loss", "title": "caption loss", "better": "less"},
        ],
        contrasts=[
            {
                "title": "collaboration",
                "metric": "test.accuracy",
                "plus": [cell["mam", "both"], cell["none", "text"]],
                "minus": [cell["mam", "text"], cell["none", "both"]],
                "primary": True,
            },
            {
                "title": "mam over none",
                "metric": "test.accuracy",
                "plus": [cell["mam", "both"]],
                "minus": [cell["none", "both"]],
                "primary": True,
            },
            {
                "title": "caption loss",
                "metric": "pretrain.loss",
                "plus": [cell["mam", "both"]],
                "minus": [cell["none", "both"]],
            },
        ],
        published={"Table 5": {"without MAM": {"VQAv2": 77.2}, "with MAM": {"VQAv2": 79.4}}},
    )


def answers(arm: str, data: str, seed: int) -> np.ndarray:
    generator = np.random.default_rng([SEEDS.index(seed), len(arm), len(data)])
    share = 0.6 + 0.2 * (data == "both") + 0.1 * (arm == "mam") * (data == "both")
    return generator.random(200) < share


def write_cells(folder: Path, without: tuple[tuple[str, str, int], ...] = ()) -> None:
    (folder / "cells").mkdir(parents=True)
    stage = {"parameters": 1000, "trained": 10, "flops_per_sample": 2e6, "samples": 64, "seconds": 3.0}
    for arm in ("none", "mam"):
        for data in ("text", "both"):
            for seed in SEEDS:
                if (arm, data, seed) in without:
                    continue
                right = answers(arm, data, seed)
                cell = {
                    "levels": {"arm": arm, "data": data},
                    "seed": seed,
                    "key": "k",
                    "metrics": {"test.accuracy": float(right.mean()), "pretrain.loss": 1.0 + seed / 10},
                    "correct": {"test": packed(list(right.astype(float)))},
                    "stages": {"pretrain": stage},
                }
                (folder / "cells" / f"{arm}-{data}-{seed}.json").write_text(json.dumps(cell))


def test_right_answers_survive_being_packed():
    for scores in ([], [0.0], [1.0, 0.0, 0.0], [0.0] * 9 + [1.0, 0.6]):
        assert unpacked(packed(scores)) == [int(score >= 0.5) for score in scores]


def test_nested_summaries_get_dotted_names_and_only_numbers_stay():
    assert flat({"a": 1, "b": {"c": 0.5, "d": "x", "e": True}}) == {"a": 1.0, "b.c": 0.5}


def test_an_interaction_is_the_difference_of_differences_seed_by_seed(tmp_path, grid):
    write_cells(tmp_path)
    tested = evaluate_contrasts(grid, load_measured(grid, tmp_path))[0]
    expected = [
        answers("mam", "both", seed).mean()
        - answers("mam", "text", seed).mean()
        - (answers("none", "both", seed).mean() - answers("none", "text", seed).mean())
        for seed in SEEDS
    ]
    assert tested.differences == pytest.approx(expected)
    assert tested.comparison.sign_flip_p == sign_flip_p(expected)
    assert tested.comparison.over_questions is not None
    assert tested.comparison.over_questions.low < np.mean(expected) < tested.comparison.over_questions.high


def test_a_metric_may_be_the_difference_of_two(tmp_path, grid):
    write_cells(tmp_path)
    measured = load_measured(grid, tmp_path)
    levels = {"arm": "mam", "data": "both"}
    expected = measured.value(levels, 3, "test.accuracy") - 1.3
    assert measured.value(levels, 3, "test.accuracy - pretrain.loss") == pytest.approx(expected)
    columns = [grid.columns[0].model_copy(update={"metric": "test.accuracy - pretrain.loss"})]
    text = write_report(grid.model_copy(update={"columns": columns}), tmp_path).read_text()
    assert "| mam | both | " in text
    (image,) = re.findall(r"\]\((\S+\.png)\)", text)  # a link with a space would not be one
    assert (tmp_path / image).is_file()


def test_only_primary_contrasts_are_corrected_for_their_number(tmp_path, grid):
    write_cells(tmp_path)
    first, second, third = evaluate_contrasts(grid, load_measured(grid, tmp_path))
    smaller, larger = sorted((first.comparison.sign_flip_p, second.comparison.sign_flip_p))
    assert sorted((first.corrected_p, second.corrected_p)) == pytest.approx(
        [min(1, 2 * smaller), max(min(1, 2 * smaller), larger)]
    )
    assert third.corrected_p == third.comparison.sign_flip_p


def test_the_report_shows_means_costs_tests_published_rows_and_plots(tmp_path, grid):
    write_cells(tmp_path)
    text = write_report(grid, tmp_path).read_text()
    values = [100 * answers("mam", "both", seed).mean() for seed in SEEDS]
    assert f"| mam | both | {np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} |" in text
    for shown in (
        "| with MAM | 79.4 |",
        "collaboration",
        "| primary | 8 |",
        "exploratory",
        "| 1,000 | 10 | 2.0 | 64 |",
    ):
        assert shown in text
    assert re.findall(r"^\| (\w+ \| \w+) \| [\d.]+ ±", text, re.M) == [
        "none | text",
        "none | both",
        "mam | text",
        "mam | both",  # as in the grid
    ]
    images = re.findall(r"\]\(([^)]+\.png)\)", text)
    assert len(images) == 2 and all((tmp_path / name).stat().st_size > 1000 for name in images)
    assert "Missing" not in text and "smoke" not in text.lower()
    findings = json.loads((tmp_path / "report.json").read_text())
    assert [entry["finding"] for entry in findings][2] == "equivalent"  # the same loss in both arms
    assert all(entry["seeds"] == list(SEEDS) and len(entry["differences"]) == len(SEEDS) for entry in findings)


def test_missing_cells_are_named_and_their_seeds_are_left_out_of_the_tests(tmp_path, grid):
    write_cells(tmp_path, without=(("mam", "both", 3),))
    text = write_report(grid, tmp_path).read_text()
    assert "**Missing: 1 cells** (mam, both seed 3)" in text
    assert evaluate_contrasts(grid, load_measured(grid, tmp_path))[0].seeds == [0, 1, 2, 4, 5, 6, 7]


def test_a_smoke_test_says_that_it_is_no_evidence(tmp_path, grid):
    write_cells(tmp_path)
    assert "**Smoke test, not evidence.**" in write_report(grid, tmp_path, smoke=True).read_text()


def test_one_seed_has_a_mean_and_nothing_that_needs_two(tmp_path, grid):
    write_cells(tmp_path)
    text = write_report(grid.model_copy(update={"seeds": [3]}), tmp_path).read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| mam over none")]
    difference = answers("mam", "both", 3).mean() - answers("none", "both", 3).mean()
    mean, over_seeds, over_questions, *_ = row.split(" | ")[3:]
    assert (mean, over_seeds) == (f"{difference:+.4f}", "") and over_questions.startswith("[")
    assert "nan" not in text
    entries = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert [entry["deviation"] for entry in entries] == [None] * 3


def test_a_metric_that_no_cell_has_and_a_folder_of_another_grid_are_refused(tmp_path, grid):
    write_cells(tmp_path)
    wrong = grid.columns[0].model_copy(update={"metric": "test.acuracy"})
    with pytest.raises(ValueError, match="no cell has the metric test.acuracy; there are pretrain.loss"):
        write_report(grid.model_copy(update={"columns": [wrong]}), tmp_path)
    with pytest.raises(ValueError, match="is of another grid: its factors are arm, data"):
        write_report(grid.model_copy(update={"factors": {"arm": grid.factors["arm"]}, "contrasts": []}), tmp_path)
    with pytest.raises(ValueError, match="has no metrics"):
        write_report(grid, tmp_path / "nothing")
