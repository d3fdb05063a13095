"""LoRA folders as DeQA-Score publishes them: merged as restated, counted, refused where they do not fit."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import IMAGE, sample, write_official
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from owl2 import Owl2ForConditionalGeneration, Owl2Processor
from owl2.checkpoints.inspect import inspect_checkpoint
from owl2.checkpoints.loading import load_for_chat
from owl2.cli.main import app

LINEARS = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.v_proj.multiway.1",
    "model.layers.2.mlp.down_proj",
    "model.vision_model.encoder.layers.0.self_attn.query_key_value",
)
RANK, ALPHA = 4, 8


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("base"))


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """The folder that the family's training writes: official names, prefixes of PEFT, the abstractor in full."""
    folder = tmp_path / "lora"
    folder.mkdir()
    weights, generator = load_file(base / "model.safetensors"), torch.Generator().manual_seed(0)
    lora = {}
    for name in LINEARS:
        rows, columns = weights[f"{name}.weight"].shape
        lora[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator) / 9
        lora[f"base_model.model.{name}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator) / 9
    save_file(lora, folder / "adapter_model.safetensors")
    trained = {
        f"base_model.model.{name}": tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights.items()
        if "visual_abstractor" in name and "pos_embed" not in name
    }
    torch.save(trained, folder / "non_lora_trainables.bin")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": "../ModelZoo/owl2"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "image_aspect_ratio": "pad"}))
    return folder


def restated(base: Path, adapter: Path, directory: Path) -> Owl2ForConditionalGeneration:
    """An official model directory whose weights were changed by hand."""
    shutil.copytree(base, directory)
    weights = load_file(base / "model.safetensors")
    lora = load_file(adapter / "adapter_model.safetensors")
    for name in LINEARS:
        first, second = (lora[f"base_model.model.{name}.lora_{letter}.weight"] for letter in "AB")
        weights[f"{name}.weight"] += ALPHA / RANK * second @ first
    for name, tensor in torch.load(adapter / "non_lora_trainables.bin", weights_only=True).items():
        weights[name.removeprefix("base_model.model.")] = tensor
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return Owl2ForConditionalGeneration.from_pretrained(directory)


def logits(model: Owl2ForConditionalGeneration) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**sample(model.config, [3, IMAGE, 5], 1)).logits


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_model_is_that_with_the_changes_made_by_hand(base: Path, adapter: Path, tmp_path: Path) -> None:
    expected = logits(restated(base, adapter, tmp_path / "restated"))
    model, processor = load_for_chat(adapter, base=base)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
    assert (expected - logits(Owl2ForConditionalGeneration.from_pretrained(base))).abs().max() > 0.1
    assert processor.image_processor.aspect == "pad"


def test_merge_lora_writes_it_as_a_plain_model(base: Path, adapter: Path, tmp_path: Path) -> None:
    result = run("merge-lora", adapter, tmp_path / "merged", "--base", base)
    assert result.exit_code == 0, result.output
    merged = Owl2ForConditionalGeneration.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), logits(load_for_chat(adapter, base=base)[0]))
    assert Owl2Processor.from_pretrained(tmp_path / "merged").image_processor.aspect == "pad"


def test_info_says_that_every_key_is_used(adapter: Path) -> None:
    count = 2 * len(LINEARS) + len(torch.load(adapter / "non_lora_trainables.bin", weights_only=True))
    report = inspect_checkpoint(adapter)
    assert (report.layout, report.keys, report.keys_used, report.fits) == ("official adapter", count, count, True)
    assert f"{count} of {count} keys used" in run("info", adapter).stdout


@pytest.mark.parametrize("prefix", ["base_model.model.", "base_model.", "model.", ""])
def test_the_prefixes_of_its_several_writers_are_known(base: Path, adapter: Path, prefix: str) -> None:
    expected = logits(load_for_chat(adapter, base=base)[0])
    trained = torch.load(adapter / "non_lora_trainables.bin", weights_only=True)
    renamed = {prefix + name.removeprefix("base_model.model."): tensor for name, tensor in trained.items()}
    torch.save(renamed, adapter / "non_lora_trainables.bin")
    (adapter / "adapter_model.safetensors").rename(adapter / "kept")
    lora = load_file(adapter / "kept")
    torch.save(
        {name.replace(".weight", ".default.weight"): each for name, each in lora.items()}, adapter / "adapter_model.bin"
    )
    torch.testing.assert_close(logits(load_for_chat(adapter, base=base)[0]), expected)


class Executed:
    """Leaves a trace if a pickle of it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


class TestRefused:
    @pytest.fixture
    def change(self, adapter: Path) -> Callable[..., None]:
        def edit(**settings: Any) -> None:
            file = adapter / "adapter_config.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))

        return edit

    def test_a_pickle_is_not_executed(
        self, base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (adapter / "non_lora_trainables.bin").write_bytes(pickle.dumps({"x": Executed()}))
        with pytest.raises(ValueError, match="non_lora_trainables.bin cannot be read as weights"):
            load_for_chat(adapter, base=base)
        assert not Path("executed").exists()

    def test_without_its_base(self, adapter: Path) -> None:
        with pytest.raises(ValueError, match="is an adapter: name the model that it was trained on"):
            load_for_chat(adapter)

    def test_a_base_of_a_whole_model(self, base: Path) -> None:
        with pytest.raises(ValueError, match="needs no base"):
            load_for_chat(base, base=base)

    def test_keys_that_do_not_fit_are_named_and_not_counted(self, base: Path, adapter: Path) -> None:
        lora = load_file(adapter / "adapter_model.safetensors")
        lora["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 64)
        lora["base_model.model.model.layers.9.self_attn.q_proj.lora_B.weight"] = torch.zeros(64, 4)
        del lora[f"base_model.model.{LINEARS[0]}.lora_B.weight"]
        save_file(lora, adapter / "adapter_model.safetensors")
        report = inspect_checkpoint(adapter)
        assert not report.fits and report.keys - report.keys_used == 3
        with pytest.raises(ValueError, match=r"q_proj.weight has no other half; model.layers.9.*is not in the model"):
            load_for_chat(adapter, base=base)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"use_dora": True}, "uses use_dora"),
            ({"peft_type": "IA3"}, "of the kind 'IA3'"),
            ({"lora_alpha": "8"}, "lora_alpha '8'"),
        ],
    )
    def test_other_adapters(
        self, base: Path, adapter: Path, change: Callable[..., None], settings: dict[str, Any], message: str
    ) -> None:
        change(**settings)
        with pytest.raises(ValueError, match=message):
            load_for_chat(adapter, base=base)

    def test_rank_stabilised_ones_are_scaled_as_such(
        self, base: Path, adapter: Path, change: Callable[..., None]
    ) -> None:
        plain = load_for_chat(adapter, base=base)[0].state_dict()
        change(use_rslora=True, lora_alpha=ALPHA / RANK**0.5)
        again = load_for_chat(adapter, base=base)[0].state_dict()
        for name, tensor in plain.items():
            torch.testing.assert_close(again[name], tensor)
