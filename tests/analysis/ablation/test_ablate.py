"""`owl2 ablate` from a grid to its report, on tiny models."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from training.tiny_recipes import write_training
from typer.testing import CliRunner

from owl2.analysis.ablation import cells as cells_module
from owl2.analysis.ablation.ablate import ablate
from owl2.analysis.ablation.cells import Busy, run_cell
from owl2.analysis.ablation.grid import expand, load_grid
from owl2.analysis.ablation.runner import gpu_of_each_job
from owl2.cli.main import app

QUIET = Console(quiet=True)
QUIET_FILE = Console(file=open(os.devnull, "w"))  # other processes write to it


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    write_training(tmp_path)
    short = {"schedule.steps": 2, "schedule.warmup_steps": 1, "checkpoint.every": 100, "evaluate.every": 2}
    held_out = {"evaluate.sources": {"pairs": {"format": "jsonl", "path": str(tmp_path / "pairs.jsonl")}}}
    document: dict[str, Any] = {
        "title": "Toy",
        "question": "Does it run?",
        "stages": {
            "pretrain": {"recipe": "pretrain.yaml", "overrides": short | held_out},
            "instruct": {"recipe": "instruct.yaml", "overrides": {**short, "evaluate.every": 0}},
        },
        "factors": {"rate": {"low": {"instruct": {"optimizer.learning_rate": 1e-5}}, "high": {}}},
        "seeds": [0],
        "measure": {
            "test": {"task": "easy_vqa", "limit": 6},
            "before": {"task": "easy_vqa", "limit": 5, "after": "pretrain"},
        },
        "columns": [
            {"metric": "test.accuracy", "title": "VQA"},
            {"metric": "pretrain.perplexity", "title": "perplexity", "better": "less"},
        ],
    }
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def changed(grid: Path, **values: Any) -> Path:
    document = yaml.safe_load(grid.read_text()) | values
    grid.write_text(yaml.safe_dump(document, sort_keys=False))
    return grid


def test_cells_share_a_stage_are_measured_and_are_not_run_again(grid, tmp_path, monkeypatch):
    loaded = load_grid(grid)
    cells, work, folder = expand(loaded, grid.parent), tmp_path / "work", tmp_path / "metrics"
    trained: list[str] = []
    train = cells_module.train_on_ranks
    monkeypatch.setattr(
        cells_module,
        "train_on_ranks",
        lambda recipe, *rest: trained.append(Path(recipe.out).name) or train(recipe, *rest),
    )
    for cell in cells:
        run_cell(cell, loaded.measure, work, folder, QUIET)
    assert [name.split("-")[0] for name in trained] == ["pretrain", "instruct", "instruct"]
    found = json.loads((folder / "cells" / "low-seed0.json").read_text())
    assert found["levels"] == {"rate": "low"} and found["key"] == cells[0].key
    assert found["metrics"]["pretrain.perplexity"] > 1 and 0 <= found["metrics"]["test.accuracy"] <= 1
    assert found["stages"]["instruct"]["samples"] > 0 and len(cells_module.unpacked(found["correct"]["test"])) == 6
    assert len(cells_module.unpacked(found["correct"]["before"])) == 5
    assert (tmp_path / "metrics" / "cells" / "low-seed0.json").stat().st_size < 5000
    # all is there: nothing is trained, and the report is computed from the metrics alone
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(cells_module, "train_on_ranks", lambda *_: pytest.fail("it was trained again"))
    assert ablate(grid, tmp_path / "other", QUIET, metrics=folder)
    assert "VQA" in (folder / "report.md").read_text()


def test_a_cell_that_another_process_works_on_is_left_to_it(grid, tmp_path):
    loaded = load_grid(grid)
    cell = expand(loaded, grid.parent)[0]
    with cells_module._only_process(tmp_path / f".{cell.name}.lock"), pytest.raises(Busy):
        run_cell(cell, loaded.measure, tmp_path, tmp_path, QUIET)


def test_sigterm_ends_the_processes_of_the_cells_and_the_same_command_resumes(grid, tmp_path):
    document = yaml.safe_load(grid.read_text())
    document["stages"]["pretrain"]["overrides"]["schedule.steps"] = 100_000
    grid.write_text(yaml.safe_dump(document, sort_keys=False))
    out = tmp_path / "run"
    command = [sys.executable, "-m", "owl2", "ablate", str(grid), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as running:
        while running.poll() is None and not list(out.glob("pretrain-*/metrics.jsonl")):
            time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        try:
            told, _ = running.communicate(timeout=120)  # which ends when no process holds the pipe any longer
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130
    assert "rate=low, seed 0; the same command resumes" in told
    assert list(out.glob("pretrain-*/checkpoints/*"))


@pytest.mark.slow
def test_two_processes_run_a_grid_to_its_report_each_on_a_gpu_of_its_own(grid, tmp_path):
    command = [sys.executable, "-m", "owl2", "ablate", str(grid), "--out", str(tmp_path / "run"), "--jobs", "2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "4,7"}  # neither need exist: a process without a GPU has none
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "2 cells, 3 stages to train" in done.stdout and "report.md" in done.stdout
    assert (tmp_path / "run" / "report.md").is_file()
    logs = sorted(log.read_text().split()[0] for log in (tmp_path / "run").glob("log-*.txt"))
    assert logs == ["CUDA_VISIBLE_DEVICES=4", "CUDA_VISIBLE_DEVICES=7"]


@pytest.mark.parametrize(
    ("visible", "count", "jobs", "expected"),
    [
        (None, 2, 3, ["0", "1", "0"]),
        ("4,7", 2, 4, ["4", "7", "4", "7"]),
        ("GPU-8f,GPU-2a", 2, 2, ["GPU-8f", "GPU-2a"]),
        ("4,7", 2, 1, [None]),
        (None, 0, 2, [None, None]),
        ("", 0, 2, ["", ""]),
    ],
)
def test_jobs_take_the_visible_gpus_in_turn(visible, count, jobs, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert gpu_of_each_job(jobs) == expected


@pytest.mark.slow
def test_ranks_train_a_stage_to_the_same_loss_and_a_recipe_that_fails_is_said(grid, tmp_path):
    loaded = load_grid(grid)
    cell = expand(loaded, grid.parent)[0]
    found = []
    for ranks in (1, 2):
        run_cell(cell, {}, tmp_path / str(ranks), tmp_path / f"metrics{ranks}", QUIET_FILE, ranks)
        metrics = json.loads((tmp_path / f"metrics{ranks}" / "cells" / "low-seed0.json").read_text())["metrics"]
        found.append(metrics["pretrain.loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    (tmp_path / "pairs.jsonl").unlink()
    with pytest.raises(ValueError, match=r"pretrain-\w+ failed on 2 ranks \(exit code 1\)"):
        run_cell(cell, {}, tmp_path / "again", tmp_path / "none", QUIET_FILE, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ablations/small/table5", "--only", "arm=wide"), "arm=wide, but arm is one of none, mam"),
        (("ablations/small/table7", "--only", "question=2"), "the factor question, but there are queries"),
        (("ablations/table9",), "there is no grid ablations/table9: did you mean ablations/table"),
        (("ablations/small/table5", "--report"), "has no metrics of cells: run the grid first"),
        (("ablations/small/table5", "--jobs", "2", "--ranks", "2"), "give --jobs or --ranks"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong_and_writes_nothing(tmp_path, arguments, message, monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")  # so that the process is not started again
    result = CliRunner().invoke(app, ["ablate", *arguments, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2 and message in result.output and len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_short_form_says_that_it_is_no_evidence(grid, tmp_path, monkeypatch):
    monkeypatch.setattr("owl2.analysis.ablation.ablate.run_cells", lambda *_: False)
    printed = io.StringIO()
    ablate(grid, tmp_path / "run", Console(file=printed), smoke=True)
    assert "smoke test, not evidence" in printed.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": [{"metric": "test.acuracy", "title": "x"}]}, "no cell has the metric test.acuracy: test measures"),
        ({"factors": {"rate": {"a": {}, "b": {}}}}, "are the same run"),
        (
            {"stages": {"pretrain": {"recipe": "absent.yaml"}}, "columns": [{"metric": "test.accuracy", "title": "x"}]},
            "absent.yaml",
        ),
    ],
)
def test_a_mistake_is_said_before_anything_trains(grid, tmp_path, change, message, monkeypatch):
    monkeypatch.setattr("owl2.analysis.ablation.ablate.run_cells", lambda *_: pytest.fail("it began"))
    factors = {"factors": {"rate": {"a": {}}}} if "stages" in change else {}
    with pytest.raises(ValueError, match=message):
        ablate(changed(grid, **factors, **change), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_grid_is_refused(grid, tmp_path, monkeypatch):
    monkeypatch.setattr("owl2.analysis.ablation.ablate.run_cells", lambda *_: False)
    assert not ablate(grid, tmp_path / "run", QUIET)
    with pytest.raises(ValueError, match=r"holds the metrics of another grid \('Toy'\): seeds differs"):
        ablate(changed(grid, seeds=[0, 1]), tmp_path / "run", QUIET)
    with pytest.raises(ValueError, match="short_form differs"):
        ablate(changed(grid, seeds=[0]), tmp_path / "run", QUIET, smoke=True)


def test_metrics_of_other_recipes_are_refused(grid, tmp_path):
    folder = tmp_path / "run"
    (folder / "cells").mkdir(parents=True)
    (folder / "cells" / "low-seed0.json").write_text(json.dumps({"key": "another"}))
    with pytest.raises(ValueError, match="was measured with other recipes or measurements"):
        ablate(grid, folder, QUIET)
