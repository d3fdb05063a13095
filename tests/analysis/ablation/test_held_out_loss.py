"""Held-out loss as a measurement of a grid, against a plain forward pass of one sample after the other."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from training.tiny_recipes import write_training

from owl2.analysis.ablation.ablate import ablate, check_metrics
from owl2.analysis.ablation.cells import read_metrics, run_cell
from owl2.analysis.ablation.grid import expand, load_grid
from owl2.checkpoints.loading import load_for_chat
from owl2.data.sources.scenes.records import SceneConversations, SceneSettings

QUIET = Console(quiet=True)
TEXT = {"format": "scenes", "kinds": ["text"], "split": "test", "count": 5, "difficulty": "easy"}


def grid_file(directory: Path, measure: dict[str, Any], columns: list[dict[str, Any]]) -> Path:
    write_training(directory)
    short = {"schedule.steps": 2, "schedule.warmup_steps": 1}
    document = {
        "title": "Toy",
        "question": "Does it run?",
        "stages": {
            # long enough for none of the texts: those of stage 2 are measured whole all the same
            "pretrain": {"recipe": "pretrain.yaml", "overrides": {**short, "data.max_length": 40}},
            "instruct": {"recipe": "instruct.yaml", "overrides": {**short, "data.max_length": 1000}},
        },
        "factors": {"rate": {"low": {"instruct": {"optimizer.learning_rate": 1e-5}}, "high": {}}},
        "seeds": [0, 3],
        "measure": measure,
        "columns": columns,
    }
    path = directory / "grid.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def plain_loss(directory: Path, kinds: tuple[str, ...], count: int, base: Path | None = None) -> tuple[float, int]:
    """Mean loss over the tokens of the answers, one sample after the other, and how many these are."""
    model, processor = load_for_chat(directory, base=base)
    settings = SceneSettings(count=count, split="test", difficulty="easy", kinds=kinds, image_size=16)  # type: ignore[arg-type]
    total, tokens = 0.0, 0
    for conversation in SceneConversations(settings):
        sample = processor.encode_conversation(conversation.messages, images=list(conversation.images) or None)
        labels = torch.tensor([sample["labels"]])
        given = {"input_ids": torch.tensor([sample["input_ids"]])}
        if "pixel_values" in sample:
            given["pixel_values"] = torch.as_tensor(sample["pixel_values"])
        with torch.no_grad():
            logits = model(**given).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits[0].float(), labels[0, 1:], reduction="none")
        total, tokens = total + float(losses.sum()), tokens + int((labels[0, 1:] != -100).sum())
    return total / tokens, tokens


def test_the_loss_of_text_after_a_stage_is_that_of_its_answers_sample_by_sample(tmp_path):
    measure = {
        "text": {"loss": {"source": TEXT}, "after": "pretrain", "batch_size": 2},
        "pictures": {"loss": {"source": {**TEXT, "kinds": ["vqa"]}, "samples": 3}},
    }
    path = grid_file(tmp_path, measure, [{"metric": "text.perplexity", "title": "perplexity", "better": "less"}])
    grid = load_grid(path)
    cells, work = expand(grid, path.parent), tmp_path / "work"
    for cell in (cells[0], cells[2]):
        run_cell(cell, grid.measure, work, tmp_path / "metrics", QUIET)
    for cell in (cells[0], cells[2]):  # two seeds are given the same texts
        found = read_metrics(tmp_path / "metrics", cell)
        assert found is not None
        loss, tokens = plain_loss(work / cell.stages[0].directory / "checkpoint", ("text",), 5)
        assert found["metrics"]["text.loss"] == pytest.approx(loss, rel=1e-4)
        assert found["metrics"]["text.perplexity"] == pytest.approx(math.exp(loss), rel=1e-3)
        assert (found["metrics"]["text.supervised_tokens"], found["metrics"]["text.samples"]) == (tokens, 5)
        assert found["metrics"]["pictures.samples"] == 3 and set(found["correct"]) == set()


def test_a_stage_that_trains_adapters_is_measured_with_them(tmp_path):
    path = grid_file(tmp_path, {"text": {"loss": {"source": TEXT}}}, [{"metric": "text.loss", "title": "loss"}])
    document = yaml.safe_load(path.read_text())
    lora = {"train.parts": ["abstractor"], "train.lora": {"rank": 2, "alpha": 8}, "optimizer.learning_rate": 0.05}
    document["factors"] = {"tuning": {"lora": {"instruct": lora}}}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    grid, work = load_grid(path), tmp_path / "work"
    cell = expand(grid, path.parent)[0]
    run_cell(cell, grid.measure, work, tmp_path / "metrics", QUIET)
    before, after = (work / stage.directory / "checkpoint" for stage in cell.stages)
    found = read_metrics(tmp_path / "metrics", cell)
    assert found is not None
    assert found["metrics"]["text.loss"] == pytest.approx(plain_loss(after, ("text",), 5, base=before)[0], rel=1e-4)
    assert found["metrics"]["text.loss"] != pytest.approx(plain_loss(before, ("text",), 5)[0], rel=1e-4)


def test_of_a_grid_with_some_metrics_only_the_other_cells_are_run(tmp_path, monkeypatch):
    path = grid_file(tmp_path, {"text": {"loss": {"source": TEXT}}}, [{"metric": "text.loss", "title": "loss"}])
    asked: list[str] = []

    def run(cells: Any, measure: Any, work: Path, folder: Path, jobs: int, console: Console, ranks: int) -> bool:
        asked.extend(cell.name for cell in cells if read_metrics(folder, cell) is None)
        return False

    grid = load_grid(path)
    cell = expand(grid, path.parent)[1]
    run_cell(cell, grid.measure, tmp_path / "here", tmp_path / "metrics", QUIET)
    monkeypatch.setattr("owl2.analysis.ablation.ablate.run_cells", run)
    assert not ablate(path, tmp_path / "elsewhere", QUIET, metrics=tmp_path / "metrics")
    assert asked == ["low-seed0", "low-seed3", "high-seed3"]
    monkeypatch.setattr("owl2.analysis.ablation.cells.train_on_ranks", lambda *_: pytest.fail("it was trained again"))
    run_cell(cell, grid.measure, tmp_path / "elsewhere", tmp_path / "metrics", QUIET)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ({"text": {}}, "either a task .* or a loss"),
        ({"text": {"task": "easy_vqa", "loss": {"source": TEXT}}}, "either a task .* or a loss"),
        ({"text": {"loss": {"source": TEXT}, "split": "test"}}, "split is a key of a benchmark, not of a loss"),
        ({"text": {"loss": {"source": {**TEXT, "kinds": ["texts"]}}}}, "measure.text.loss.source.kinds"),
        ({"text": {"loss": {"source": TEXT}, "after": "tune"}}, "text is measured after tune, but the stages are"),
        ({"text": {"loss": {"source": {"format": "records"}}}}, "a source of the format records needs a path"),
    ],
)
def test_a_loss_that_makes_no_sense_is_refused_in_a_line(tmp_path, measure, message):
    path = grid_file(tmp_path, measure, [{"metric": "text.loss", "title": "x"}])
    with pytest.raises(ValueError, match=message) as error:
        load_grid(path)
    assert "\n" not in str(error.value)


def test_a_key_that_no_loss_has_and_a_source_that_is_missing_are_said_before_anything_trains(tmp_path):
    columns = [{"metric": "text.accuracy", "title": "x"}]
    with pytest.raises(ValueError, match=r"no cell has the metric text.accuracy: text measures loss, perplexity"):
        check_metrics(load_grid(grid_file(tmp_path, {"text": {"loss": {"source": TEXT}}}, columns)))
    absent = {"format": "records", "path": "absent.jsonl"}
    path = grid_file(tmp_path, {"text": {"loss": {"source": absent}}}, [{"metric": "text.loss", "title": "x"}])
    with pytest.raises(ValueError, match="text measures the loss of absent.jsonl, which was not found"):
        check_metrics(load_grid(path))
