"""`torchao` and `bitsandbytes` load the model in 8 and 4 bits, and it generates."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import randomize
from torch import nn

from owl2 import Owl2Config, Owl2ForConditionalGeneration

KEPT = ["model.vision_tower", "model.abstractor", "lm_head"]
"""Modules that stay as they are, as transformers names them; only the language decoder is quantized."""


def answer(model: nn.Module, prompt: dict[str, Any]) -> torch.Tensor:
    return model.generate(**prompt, max_new_tokens=8, do_sample=False)


def agreement(quantized: nn.Module, full: nn.Module, prompt: dict[str, Any]) -> float:
    """Correlation of the logits of both."""
    with torch.no_grad():
        logits = [each(**prompt).logits.float().flatten() for each in (quantized, full)]
    return torch.corrcoef(torch.stack(logits))[0, 1].item()


def decoder_linears(model: Owl2ForConditionalGeneration) -> dict[str, nn.Module]:
    layers = model.model.language_model.layers
    return {name: module for name, module in layers.named_modules() if name.endswith("_proj")}


class TestTorchao:
    @pytest.fixture(autouse=True)
    def _needs_torchao(self) -> None:
        pytest.importorskip("torchao")

    def load(self, directory: Path, how: Any, **options: Any) -> Owl2ForConditionalGeneration:
        from transformers import TorchAoConfig

        config = TorchAoConfig(how, modules_to_not_convert=KEPT)
        return Owl2ForConditionalGeneration.from_pretrained(directory, quantization_config=config, **options)

    def test_int8_weights(
        self, directory: Path, model: Owl2ForConditionalGeneration, prompt: dict[str, Any], tmp_path: Path
    ) -> None:
        from torchao.quantization import Int8WeightOnlyConfig

        quantized = self.load(directory, Int8WeightOnlyConfig())
        for name, module in decoder_linears(quantized).items():
            assert type(module.weight.data) is not torch.Tensor, name
        assert agreement(quantized, model, prompt) > 0.999
        tokens = answer(quantized, prompt)
        assert tokens.shape == answer(model, prompt).shape

        quantized.save_pretrained(tmp_path)
        again = Owl2ForConditionalGeneration.from_pretrained(tmp_path)
        assert torch.equal(answer(again, prompt), tokens)

    def test_int4_weights(self, directory: Path, model: Owl2ForConditionalGeneration, prompt: dict[str, Any]) -> None:
        torchao = pytest.importorskip("torchao.quantization")
        how = torchao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=torchao.granularity.PerAxis(0))
        quantized = self.load(directory, how)
        assert agreement(quantized, model, prompt) > 0.9
        assert answer(quantized, prompt).shape == answer(model, prompt).shape


class TestBitsandbytes:
    @pytest.fixture(autouse=True)
    def _needs_bitsandbytes(self) -> None:
        pytest.importorskip("bitsandbytes")

    @pytest.fixture
    def wide(self, directory: Path, tmp_path: Path) -> Path:
        """Random weights whose widths are multiples of 32, as 4 bits need on a CPU."""
        config = Owl2Config.from_pretrained(directory)
        config.text_config.intermediate_size = 192
        randomize(Owl2ForConditionalGeneration(config)).save_pretrained(tmp_path / "wide")
        return tmp_path / "wide"

    def load(self, directory: Path, **how: Any) -> Owl2ForConditionalGeneration:
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(llm_int8_skip_modules=KEPT, **how)
        return Owl2ForConditionalGeneration.from_pretrained(directory, quantization_config=config, device_map="cpu")

    @pytest.mark.parametrize(
        ("how", "stored", "least"),
        [
            (dict(load_in_8bit=True), torch.int8, 0.99),
            (dict(load_in_4bit=True, bnb_4bit_quant_type="nf4"), torch.uint8, 0.8),
        ],
        ids=["8 bits", "4 bits"],
    )
    def test_it_generates(
        self,
        wide: Path,
        prompt: dict[str, Any],
        how: dict[str, Any],
        stored: torch.dtype,
        least: float,
    ) -> None:
        model, quantized = Owl2ForConditionalGeneration.from_pretrained(wide), self.load(wide, **how)
        linears = decoder_linears(quantized)
        assert {module.weight.dtype for module in linears.values()} == {stored}
        assert any(name.endswith("vision_k_proj") for name in linears)
        assert quantized.model.vision_tower.layers[0].mlp.fc1.weight.is_floating_point()
        assert agreement(quantized, model, prompt) > least
        assert answer(quantized, prompt).shape == answer(model, prompt).shape
