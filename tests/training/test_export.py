"""What is exported from a checkpoint is the model that trained."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from training.tiny_recipes import run_recipe
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from owl2.cli.main import app
from owl2.training.export import export
from owl2.training.model_card import licence_of


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps with the checkpoints of all, at another resolution than its first model's."""
    directory = tmp_path_factory.mktemp("runs")
    run_recipe(data, "pretrain", directory / "first", "schedule.steps=1")
    start = f"model.checkpoint={directory / 'first' / 'checkpoint'}"
    run_recipe(
        data, "pretrain", directory / "run", start, "data.image_size=24", "checkpoint.every=1", "checkpoint.keep=3"
    )
    return directory / "run"


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return AutoModelForImageTextToText.from_pretrained(directory, dtype="auto").state_dict()


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("layout", ["owl2", "official"])
def test_the_newest_checkpoint_is_the_model_that_the_run_left(run: Path, tmp_path: Path, layout: str) -> None:
    assert export(run, tmp_path / "model", dtype=torch.float32, layout=layout) == 3
    assert_equal(weights(tmp_path / "model"), weights(run / "checkpoint"))
    assert ("visual_config" in json.loads((tmp_path / "model" / "config.json").read_text())) == (layout == "official")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    assert processor.num_image_tokens == 4 and processor.image_processor.size["height"] == 24


def test_the_model_card_is_written_from_the_run(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "model", step=2, hub_code=True)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "\n# model\n" in card and "Stage `pretrain`, 2 of 3 steps" in card and "the checkpoint checkpoint" in card
    assert "learning_rate:" in card and str(tmp_path.parent) not in card  # the recipe, but no place of this machine
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text("---\nlicense: llama2\n---\n")
    assert licence_of(str(tmp_path / "base")) == "llama2"


def test_the_model_card_of_a_copy_names_the_licence_of_its_weights(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(run / "checkpoint", model)
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    export(model, tmp_path / "copy", hub_code=True)
    assert "| weights | mit |" in (tmp_path / "copy" / "README.md").read_text()


def test_the_model_card_names_the_sources_of_a_mixture_and_the_scores(data: Path, tmp_path: Path) -> None:
    source = {"format": "quality", "annotations": "koniq_train.csv", "images": "koniq"}
    mixture = tmp_path / "opinions.yaml"
    mixture.write_text(yaml.safe_dump({"cache": "cache", "sources": {"koniq": source}}))
    run_recipe(data, "instruct", tmp_path / "run", "schedule.steps=1")
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    recipe["data"]["sources"] = {"all": {"format": "mixture", "path": str(mixture)}}
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    scores = {"quality": {"measure": "srcc", "score": 0.9, "summary": {"srcc": 0.9, "plcc": 0.8}}}
    (tmp_path / "run" / "evaluations.jsonl").write_text(json.dumps({"step": 1, "tasks": scores}) + "\n")
    export(tmp_path / "run", tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| koniq | quality | koniq_train.csv, koniq |" in card and "| data: koniq |" in card
    assert "| quality.srcc | 0.9 |" in card and "| quality.plcc | 0.8 |" in card
    mixture.unlink()
    export(tmp_path / "run", tmp_path / "later")
    assert "| all | mixture | opinions.yaml |" in (tmp_path / "later" / "README.md").read_text()


def test_an_earlier_step_by_number_or_directory_in_the_precision_asked_for(run: Path, tmp_path: Path) -> None:
    assert export(run, tmp_path / "one", step=2) == 2
    assert export(run / "checkpoints" / "step-00000002", tmp_path / "other") == 2
    found = weights(tmp_path / "one")
    assert_equal(found, weights(tmp_path / "other"))
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    name = "model.abstractor.projection.weight"
    assert not torch.equal(found[name], weights(run / "checkpoint")[name].bfloat16())


def test_a_run_that_made_its_own_model_and_is_not_finished(data: Path, tmp_path: Path) -> None:
    run_recipe(data, "instruct", tmp_path / "run", "schedule.steps=1")
    finished = weights(tmp_path / "run" / "checkpoint")
    (tmp_path / "run" / "checkpoint").rename(tmp_path / "away")
    export(tmp_path / "run", tmp_path / "model", dtype=torch.float32)
    assert_equal(weights(tmp_path / "model"), finished)


def test_a_run_with_lora_gives_its_adapter_folder(data: Path, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from owl2.checkpoints.adapters import load_adapter

    start = (f"model.checkpoint={run / 'checkpoint'}", "data.image_size=24", "schedule.steps=1")
    lora = ("train.parts=[abstractor]", "train.lora={rank: 2, alpha: 4, dropout: 0.0}")
    run_recipe(data, "instruct", tmp_path / "run", *start, *lora)
    export(tmp_path / "run", tmp_path / "adapter", dtype=torch.float32)
    models = [
        load_adapter(AutoModelForImageTextToText.from_pretrained(run / "checkpoint"), folder)
        for folder in (tmp_path / "adapter", tmp_path / "run" / "checkpoint")
    ]
    assert_equal(models[0].state_dict(), models[1].state_dict())
    with pytest.raises(ValueError, match="no adapters"):
        export(tmp_path / "run", tmp_path / "official", layout="official")


def test_what_cannot_be_exported_is_said_in_one_line(run: Path, tmp_path: Path) -> None:
    command = CliRunner()

    def error(*arguments: object) -> str:
        result = command.invoke(app, ["export", *map(str, arguments)])
        assert result.exit_code == 2
        return result.stderr

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "not empty" in error(run, tmp_path / "full")
    assert "neither a run of owl2 train nor a checkpoint" in error(tmp_path / "full", tmp_path / "new")
    assert "no complete checkpoint of step 9; complete are those of the steps 1, 2, 3" in error(
        run, tmp_path / "new", "--step", 9
    )
    (run / "checkpoints" / "step-00000004.partial").mkdir()
    assert "no complete checkpoint of step 4" in error(run / "checkpoints" / "step-00000004.partial", tmp_path / "new")
    (run / "checkpoints" / "step-00000004.partial").rmdir()
    file = run / "checkpoints" / "step-00000001" / "rank-00000.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "rank-00000.safetensors has changed" in error(run, tmp_path / "new", "--step", 1)
    file.write_bytes(content)
    assert not (tmp_path / "new").exists()
    result = command.invoke(app, ["export", str(run), str(tmp_path / "new")])
    assert result.exit_code == 0 and f"step 3 of {run} in bfloat16, owl2 layout" in result.stdout
