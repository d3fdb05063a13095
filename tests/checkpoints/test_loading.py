"""What chat, serve and quality load: adapters on their base, the language decoder in 8 and 4 bits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import write_official
from model_directories import adapter_on, wide_model
from safetensors.torch import load_file
from torch import nn

from owl2 import Owl2ForConditionalGeneration, Owl2Processor
from owl2.checkpoints.int8_products import Int8Linear
from owl2.checkpoints.loading import load_for_chat
from owl2.training.adapters.merge import merge_lora


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="module")
def base(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wide_model(official, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft")
    return adapter_on(base, tmp_path_factory.mktemp("adapter"))


@torch.no_grad()
def logits(model: Owl2ForConditionalGeneration, processor: Owl2Processor) -> torch.Tensor:
    picture = torch.arange(3 * 30 * 30, dtype=torch.uint8).view(30, 30, 3).numpy()
    return model(**processor(text="USER: <|image|>what? ASSISTANT:", images=[picture], return_tensors="pt")).logits


def agreement(one: torch.Tensor, other: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([one.float().flatten(), other.float().flatten()]))[0, 1].item()


def decoder_weights(model: Owl2ForConditionalGeneration) -> dict[str, Any]:
    layers = model.model.language_model.layers
    return {name: module.weight for name, module in layers.named_modules() if name.endswith("_proj")}


def decoder_projections(model: Owl2ForConditionalGeneration) -> list[nn.Module]:
    layers = model.model.language_model.layers
    return [module for name, module in layers.named_modules() if name.endswith("_proj")]


def is_packed(weight: torch.Tensor) -> bool:
    return weight.dtype == torch.uint8 or type(weight.data) is not torch.Tensor


class TestAdapters:
    def test_compute_what_the_merged_model_does(self, base: Path, adapter: Path, tmp_path: Path) -> None:
        merged = load_for_chat(merge_lora(adapter, base, tmp_path / "merged"))
        loaded = load_for_chat(adapter, base=base)
        torch.testing.assert_close(logits(*loaded), logits(*merged))
        assert agreement(logits(*loaded), logits(*load_for_chat(base))) < 0.99
        assert not any(".lora_" in name for name, _ in loaded[0].named_parameters()), "it runs at full speed"

    def test_need_their_base_which_a_whole_model_does_not(self, base: Path, adapter: Path) -> None:
        with pytest.raises(ValueError, match=r"is an adapter: .*--base DIR.*owl2 merge-lora"):
            load_for_chat(adapter)
        with pytest.raises(ValueError, match="needs no base"):
            load_for_chat(base, base=base)

    def test_of_another_model_are_refused_by_name(self, official: Path, adapter: Path) -> None:
        with pytest.raises(ValueError, match=r"does not fit this base model: .*mlp\.\w+"):
            load_for_chat(adapter, base=official)


@pytest.mark.parametrize("bits", [8, 4])
class TestFewerBits:
    LEAST = {8: 0.999, 4: 0.8}  # correlation with the logits in full precision

    @pytest.fixture(autouse=True)
    def _needs_packages(self, bits: int) -> None:
        pytest.importorskip({8: "torchao", 4: "bitsandbytes"}[bits])

    def test_only_the_language_decoder_has_them(self, base: Path, bits: int) -> None:
        model, processor = load_for_chat(base, bits=bits)
        assert all(is_packed(weight) for weight in decoder_weights(model).values())
        for whole in (model.model.vision_tower, model.model.abstractor, model.lm_head):
            assert not any(is_packed(parameter) for parameter in whole.parameters())
        assert agreement(logits(model, processor), logits(*load_for_chat(base))) > self.LEAST[bits]

    @torch.no_grad()
    def test_a_step_computes_what_reading_all_at_once_does(self, base: Path, bits: int) -> None:
        model, _ = load_for_chat(base, bits=bits)
        ids = torch.tensor([[5, 6, 7, 8]])
        whole = model(ids).logits[:, -1:]
        step = model(ids[:, 3:], past_key_values=model(ids[:, :3], use_cache=True).past_key_values).logits
        assert (step - whole).norm() < 1e-2 * whole.norm()
        if bits == 8:
            assert all(isinstance(module, Int8Linear) for module in decoder_projections(model))

    def test_the_official_layout_loads_alike(self, base: Path, official: Path, bits: int, tmp_path: Path) -> None:
        from owl2.checkpoints import save_official

        model, processor = load_for_chat(base)
        save_official(model, tmp_path / "other")
        for file in official.glob("tok*"):
            shutil.copyfile(file, tmp_path / "other" / file.name)
        other, _ = load_for_chat(tmp_path / "other", bits=bits)
        torch.testing.assert_close(logits(other, processor), logits(load_for_chat(base, bits=bits)[0], processor))

    def test_adapters_stay_on_top_and_what_trained_in_full_stays_whole(
        self, base: Path, adapter: Path, bits: int
    ) -> None:
        model, processor = load_for_chat(adapter, base=base, bits=bits)
        learnt = load_file(adapter / "adapter_model.safetensors")
        for name, weight in decoder_weights(model).items():
            if "vision_" in name:
                own = learnt[f"base_model.model.model.language_model.layers.{name}.weight"]
                assert torch.equal(weight, own)
            else:
                assert is_packed(weight)
        assert agreement(logits(model, processor), logits(*load_for_chat(adapter, base=base))) > self.LEAST[bits]


def test_bits_that_cannot_be_had_are_refused(base: Path, official: Path, change_config: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="5 bits: choose 8 or 4"):
        load_for_chat(base, bits=5)
    with pytest.raises(ValueError, match="quantized already"):
        load_for_chat(change_config(quantization_config={"quant_method": "bitsandbytes"}), bits=8)
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ValueError, match=r"down_proj has 172 inputs, but 4 bits need a multiple of 32"):
        load_for_chat(official, bits=4)


@pytest.fixture
def change_config(base: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the base with another configuration."""

    def changed(**entries: Any) -> Path:
        directory = Path(shutil.copytree(base, tmp_path / "changed"))
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, **entries}))
        return directory

    return changed
