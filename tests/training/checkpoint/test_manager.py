"""Checkpoints are complete or not there, are what was written, and hold nothing that could run."""

from pathlib import Path

import pytest
import torch
from training.rank_programs import Layout, killed_while_saving, train_with_checkpoints
from training.ranks import RankFailed, run_ranks
from training.tiny_checkpoints import saved, tensors

from owl2.training.checkpoint.manager import Checkpoints, DamagedCheckpoint, complete_steps, directory_of
from owl2.training.checkpoint.safetensors_storage import read_tensors
from owl2.training.distributed.mesh import process_group

ONE = Layout()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_is_saved_is_loaded_with_its_states(tmp_path: Path, asynchronous: bool) -> None:
    written = tensors(1.5)
    checkpoints = Checkpoints(tmp_path, asynchronous=asynchronous)
    checkpoints.save(7, written, {"samples": [1, 2]}, {"own": None})
    for tensor in written.values():
        tensor.zero_()  # training goes on at once
    checkpoints.wait()
    found = tensors()
    state = Checkpoints(tmp_path).load_latest(found)
    assert state == (7, {"samples": [1, 2]}, {"own": None})
    for name, tensor in tensors(1.5).items():
        assert torch.equal(found[name], tensor), name


def test_without_a_checkpoint_nothing_is_loaded(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none").load_latest(tensors()) is None


def test_the_newest_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 10, 30, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000030"]
    assert Checkpoints(tmp_path).load_latest(tensors()).step == 30


def test_killed_while_saving_a_run_goes_on_from_the_checkpoint_before_bit_for_bit(tmp_path: Path) -> None:
    with pytest.raises(RankFailed, match="died"):
        run_ranks(1, killed_while_saving, tmp_path / "killed", [2, 3])
    assert complete_steps(tmp_path / "killed") == [2]
    assert (tmp_path / "killed" / "step-00000003.partial").is_dir()
    with process_group(60):
        whole = train_with_checkpoints(tmp_path / "whole", ONE, 5, save_at=[5])
        resumed = train_with_checkpoints(tmp_path / "killed", ONE, 5, save_at=[5])
    assert resumed == whole and len(whole) == 5
    one, other = (directory_of(tmp_path / name, 5) for name in ("whole", "killed"))
    for name, tensor in read_tensors(one).items():
        assert torch.equal(tensor, read_tensors(other)[name]), name
    assert not list((tmp_path / "killed").glob("*.partial"))


def change(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["rank-00000.safetensors", "index.json", "state.json", "rank-00000.json"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_offered(tmp_path: Path, name: str) -> None:
    saved(tmp_path, 5, 10)
    change(tmp_path / "step-00000010" / name)
    with pytest.raises(DamagedCheckpoint, match=f"{name} has changed.*Move step-00000010 away to resume from step 5"):
        Checkpoints(tmp_path).load_latest(tensors())
    (tmp_path / "step-00000010").rename(tmp_path / "damaged")
    assert Checkpoints(tmp_path).load_latest(tensors()).step == 5


def test_a_file_that_is_missing_or_short_is_named(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    file = tmp_path / "step-00000005" / "rank-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DamagedCheckpoint, match="rank-00000.safetensors has .* bytes instead of .*none before it"):
        Checkpoints(tmp_path).load_latest(tensors())
    file.unlink()
    with pytest.raises(DamagedCheckpoint, match="rank-00000.safetensors is missing"):
        Checkpoints(tmp_path).load_latest(tensors())


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 99, "files": {}}'])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    saved(tmp_path, 5)
    (tmp_path / "step-00000005" / "manifest.json").write_text(content)
    with pytest.raises(DamagedCheckpoint, match="manifest.json"):
        Checkpoints(tmp_path).load_latest(tensors())


def test_a_checkpoint_of_other_parameters_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    other = tensors() | {"a.master": torch.zeros(3, 3)}
    with pytest.raises(
        ValueError, match=r"1 tensors differ, among them a.master with shape \(3, 2\) there and \(3, 3\)"
    ):
        Checkpoints(tmp_path).load_latest(other)


def test_an_error_of_the_background_save_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    checkpoints = Checkpoints(tmp_path / "file")
    with pytest.raises(OSError, match="cannot be written: on rank 0 NotADirectoryError"):
        checkpoints.save(1, tensors(), {})
        checkpoints.wait()
