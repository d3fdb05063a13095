"""What is exported from a checkpoint is the model that trained."""

import json
from pathlib import Path

import pytest
import torch
from training.tiny_recipes import run_recipe
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from owl2.cli.main import app
from owl2.training.export import export


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
