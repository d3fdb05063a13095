"""A model that a run keeps is there whole or not at all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_model

from owl2 import Owl2ForConditionalGeneration
from owl2.training.model.save import save_initial


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_model_is_written_in_the_precision_of_the_run(
    dtype: torch.dtype, processor: Any, tmp_path: Path
) -> None:
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_initial(model, processor, tmp_path / "initial", dtype)
    found = Owl2ForConditionalGeneration.from_pretrained(tmp_path / "initial", dtype="auto").state_dict()
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], tensor.to(dtype)) for name, tensor in before.items())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert [each.name for each in tmp_path.iterdir()] == ["initial"]


def test_where_its_processor_cannot_be_written_there_is_no_directory(
    processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(type(processor), "save_pretrained", full)
    with pytest.raises(OSError, match="No space"):
        save_initial(tiny_model(), processor, tmp_path / "initial", torch.float32)
    assert not (tmp_path / "initial").exists()
