"""`owl2 merge-lora`: an adapter and its base model to one plain model."""

from pathlib import Path

import pytest
import torch
from helpers import IMAGE, sample

from owl2 import Owl2ForConditionalGeneration, Owl2Processor
from owl2.training.adapters.lora import apply_lora, save_adapter
from owl2.training.stages import select_trainable

pytest.importorskip("peft")


@pytest.fixture
def adapter(ours: Path, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A folder with random adapters and another abstractor, and the logits of the model with them."""
    model = Owl2ForConditionalGeneration.from_pretrained(ours)
    select_trainable(model, ("abstractor",))
    apply_lora(model, rank=4, alpha=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_adapter(model, tmp_path / "adapter", base=ours)
    return tmp_path / "adapter", logits(model)


def logits(model: Owl2ForConditionalGeneration) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**sample(model.config, [3, IMAGE, 5], 1)).logits


def test_the_merged_model_computes_what_the_adapter_did(owl2, ours: Path, adapter, tmp_path: Path) -> None:
    folder, expected = adapter
    result = owl2("merge-lora", folder, tmp_path / "merged", "--base", ours)
    assert result.exit_code == 0, result.output
    merged = Owl2ForConditionalGeneration.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)
    assert (expected - logits(Owl2ForConditionalGeneration.from_pretrained(ours))).abs().max() > 0.01
    Owl2Processor.from_pretrained(tmp_path / "merged")


def test_a_base_in_the_official_layout_is_merged_too(owl2, official: Path, adapter, tmp_path: Path) -> None:
    folder, expected = adapter
    assert owl2("merge-lora", folder, tmp_path / "merged", "--base", official).exit_code == 0
    merged = Owl2ForConditionalGeneration.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)


def test_a_folder_with_a_processor_decides_the_resolution(owl2, ours: Path, adapter, tmp_path: Path) -> None:
    folder, _ = adapter
    Owl2Processor.from_pretrained(ours, size={"height": 84, "width": 84}).save_pretrained(folder)
    assert owl2("merge-lora", folder, tmp_path / "merged", "--base", ours).exit_code == 0
    merged = Owl2ForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert merged.config.vision_config.image_size == 84
    assert Owl2Processor.from_pretrained(tmp_path / "merged").image_processor.size["height"] == 84


def test_wrong_folders_are_refused_and_nothing_is_overwritten(refused, ours: Path, adapter, tmp_path: Path) -> None:
    folder, _ = adapter
    out = tmp_path / "merged"
    assert "not an adapter folder" in refused("merge-lora", ours, out, "--base", ours)
    assert "does not exist" in refused("merge-lora", folder, out, "--base", tmp_path / "nowhere")
    assert not out.exists()
    assert "is not empty" in refused("merge-lora", folder, folder, "--base", ours)
