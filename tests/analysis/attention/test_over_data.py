"""Attention over a data set against its samples one by one."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from owl2.analysis.attention.over_data import mean_shares, shares_over_data
from owl2.analysis.attention.shares import Shares
from owl2.analysis.attention.study import study_answer
from owl2.analysis.material import material
from owl2.checkpoints.loading import load_for_chat
from owl2.cli.main import app
from owl2.processing import load_image


def test_means_are_those_of_the_questions_asked_one_by_one_with_the_next_picture_as_the_unrelated(model_directory):
    model, processor = load_for_chat(model_directory)
    samples = material("scenes_easy", 3).about_pictures
    done: list[int] = []
    found = shares_over_data(model, processor, samples, 2, lambda: done.append(1))
    assert list(found) == ["matching", "unrelated", "blank", "none"] and len(done) == 3
    for condition, shift in (("matching", 0), ("unrelated", 1)):
        alone = [
            study_answer(
                model, processor, each.prompt, [load_image(samples[(index + shift) % 3].images[0]())], 2
            ).shares
            for index, each in enumerate(samples)
        ]
        for name in Shares._fields:
            expected = torch.stack([getattr(shares, name) for shares in alone]).double().mean(0)
            torch.testing.assert_close(getattr(found[condition].mean, name), expected)
    assert found["none"].mean.vision_enrichment.isnan().all() and float(found["none"].mean.vision.sum()) == 0


def test_the_interval_is_that_of_a_bootstrap_over_samples_and_leaves_out_what_is_not_there():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(12, 6, 2))
    values[3, 4] = np.nan
    found = mean_shares([Shares(*torch.tensor(each)) for each in values])
    for index, name in enumerate(Shares._fields):
        column = values[:, index, 1]
        column = column[~np.isnan(column)]
        assert float(getattr(found.mean, name)[1]) == pytest.approx(column.mean())
        resampled = generator.choice(column, size=(20000, len(column))).mean(1)
        ends = [float(getattr(each, name)[1]) for each in (found.low, found.high)]
        assert ends == pytest.approx(list(np.quantile(resampled, [0.025, 0.975])), abs=0.04)
    assert found.samples == 12


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["attention", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_command_draws_the_conditions_of_figure_5_with_intervals(model_directory, tmp_path):
    code, output = run("-m", model_directory, "--data", "scenes_easy", "--limit", 3, "--out", tmp_path)
    assert code == 0, output
    assert (tmp_path / "shares_over_data.png").stat().st_size > 5000
    found = json.loads((tmp_path / "shares_over_data.json").read_text())
    assert "Mean over 3 questions of Scenes (easy)" in found["caption"]
    rows = pq.read_table(tmp_path / "shares_over_data.parquet").to_pylist()
    assert rows == found["rows"] and len(rows) == 4 * 2
    assert all(row["vision_low"] <= row["vision"] <= row["vision_high"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --prompt, one question, or --data"),
        (("--prompt", "x", "--data", "scenes"), "give either --prompt, one question, or --data"),
        (("--data", "scenes", "--layers", "0"), "--layers is for one question"),
        (("--data", "coco"), "one of easy_vqa, scenes_simple, scenes_easy"),
    ],
)
def test_what_does_not_fit_a_data_set_is_one_line(model_directory, tmp_path, arguments, message):
    code, output = run("-m", model_directory, *arguments, "--out", tmp_path / "out")
    assert code == 2 and message in output and len(output.strip().splitlines()) == 1
