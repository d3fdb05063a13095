"""What is merged from files, one tensor at a time, is what PEFT merges in memory."""

from pathlib import Path

import pytest
import torch
from helpers import tiny_model
from training.tiny_adapters import adapted, logits

from owl2 import Owl2ForConditionalGeneration
from owl2.training.adapters.lora import save_adapter
from owl2.training.adapters.merge import merge_lora

peft = pytest.importorskip("peft")


@pytest.fixture
def folders(processor, tmp_path: Path) -> tuple[Path, Path]:
    """A base model and an adapter on it."""
    tiny_model().save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    save_adapter(adapted(), tmp_path / "adapter", base=tmp_path / "base")
    return tmp_path / "base", tmp_path / "adapter"


def test_the_merged_model_has_the_weights_that_peft_merges(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    merged = Owl2ForConditionalGeneration.from_pretrained(merge_lora(adapter, base, tmp_path / "merged"))
    loaded = peft.PeftModel.from_pretrained(Owl2ForConditionalGeneration.from_pretrained(base), adapter)
    theirs = loaded.merge_and_unload()
    wanted = dict(theirs.named_parameters())
    for name, parameter in merged.named_parameters():
        torch.testing.assert_close(parameter, wanted[name], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits(merged), logits(theirs), rtol=1e-4, atol=1e-5)
    assert (logits(merged) - logits(Owl2ForConditionalGeneration.from_pretrained(base))).abs().max() > 0.01


def test_a_merge_that_was_interrupted_is_continued_by_the_same_call(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_lora(adapter, base, tmp_path / "merged", stop)
    assert not (tmp_path / "merged").exists()
    found: list[bool] = []
    merge_lora(adapter, base, tmp_path / "merged", lambda progress: found.append(progress.was_there))
    assert found == [True] and (tmp_path / "merged" / "config.json").is_file()
