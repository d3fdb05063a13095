"""The frozen language model in 4 bits (QLoRA)."""

from pathlib import Path

import pytest
import torch
from helpers import tiny_config, tiny_model
from training.tiny_adapters import VISION, inputs, logits, step

from owl2 import Owl2ForConditionalGeneration
from owl2.checkpoints.adapters import load_adapter, merge_adapters
from owl2.training.adapters.lora import apply_lora, save_adapter
from owl2.training.adapters.quantize import quantize_frozen_projections
from owl2.training.stages import select_trainable


class TestFourBits:
    """QLoRA."""

    @pytest.fixture(autouse=True)
    def _needs_bitsandbytes(self) -> None:
        pytest.importorskip("bitsandbytes")

    def quantized(self) -> Owl2ForConditionalGeneration:
        model = tiny_model(tiny_config(intermediate_size=128))
        select_trainable(model, (*VISION, "decoder_vision"))
        count = quantize_frozen_projections(model, torch.float32)
        assert count == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
        return model

    def test_a_base_in_4_bits_learns_through_adapters(self, tmp_path: Path) -> None:
        model = self.quantized()
        apply_lora(model, rank=4, alpha=8)
        packed = model.model.language_model.layers[0].mlp.up_proj.base_layer.weight
        assert packed.dtype == torch.uint8 and packed.numel() == 64 * 128 / 2
        before = packed.clone()
        losses = step(model, 8, rate=0.02)
        assert losses[-1] < 0.9 * losses[0]
        assert torch.equal(packed, before)

        save_adapter(model, tmp_path)
        again = load_adapter(self.quantized(), tmp_path)
        torch.testing.assert_close(logits(again), logits(model))
        with pytest.raises(ValueError, match="is quantized: merge into the base model in full precision"):
            merge_adapters(model)

    def test_evaluation_between_training_steps_changes_nothing(self) -> None:
        model = self.quantized()
        apply_lora(model, rank=4, alpha=8)
        with torch.no_grad():
            before = model.train()(**inputs(model)).logits
        torch.testing.assert_close(logits(model), before)
        with torch.no_grad():
            after = model.train()(**inputs(model)).logits
        assert torch.equal(after, before)

    def test_its_outputs_are_near_those_in_full_precision(self) -> None:
        model = self.quantized()
        full = logits(tiny_model(tiny_config(intermediate_size=128)))
        correlation = torch.corrcoef(torch.stack([logits(model).flatten(), full.flatten()]))[0, 1]
        assert correlation > 0.9

    def test_a_model_that_trains_in_full_is_refused(self) -> None:
        with pytest.raises(ValueError, match="nothing to keep in 4 bits"):
            quantize_frozen_projections(tiny_model(), torch.float32)
