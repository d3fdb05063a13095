"""The files of a checkpoint: as the tensors were when they were saved, and nothing in them runs."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from training.tiny_checkpoints import saved, tensors

from owl2.training.checkpoint import safetensors_storage as checkpoint_storage
from owl2.training.checkpoint.manager import Checkpoints
from owl2.training.checkpoint.safetensors_storage import read_tensors


def test_tensors_may_change_while_they_are_written_in_one_save_after_the_other(tmp_path: Path) -> None:
    given = {"x": torch.zeros(300, 200), "y": torch.zeros(7)}
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        for tensor in given.values():
            tensor.fill_(step)
        checkpoints.save(step, given, {})
        for tensor in given.values():
            tensor.fill_(-1)
    checkpoints.wait()
    for step in (1, 2, 3):
        found = read_tensors(tmp_path / f"step-{step:08d}")
        assert all((found[name] == step).all() and found[name].shape == given[name].shape for name in given)


class Malicious:
    """A pickle of this makes a directory when it is read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.directory),)


@pytest.mark.parametrize("name", ["rank-00000.safetensors", "index.json", "state.json", "manifest.json", ".metadata"])
def test_nothing_in_a_stranger_s_checkpoint_runs(tmp_path: Path, name: str) -> None:
    saved(tmp_path, 5)
    directory, trap = tmp_path / "step-00000005", tmp_path / "trap"
    (directory / name).write_bytes(pickle.dumps(Malicious(trap)))
    manifest = json.loads((directory / "manifest.json").read_text()) if name != "manifest.json" else None
    if manifest and name in manifest["files"]:  # the stranger's manifest fits
        manifest["files"].update(checkpoint_storage._describe([directory / name]))
        (directory / "manifest.json").write_text(json.dumps(manifest))
    try:
        Checkpoints(tmp_path).load_latest(tensors())
    except (ValueError, OSError):
        refused = True
    else:
        refused = False
    assert not trap.exists()
    assert refused == (name != ".metadata")  # which is torch's own index, and not read


def test_an_index_that_leads_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    index = tmp_path / "step-00000005" / "index.json"
    index.write_text(index.read_text().replace("rank-00000.safetensors", "../rank-00000.safetensors"))
    with pytest.raises(ValueError, match="no checkpoint of ours"):
        read_tensors(index.parent)
