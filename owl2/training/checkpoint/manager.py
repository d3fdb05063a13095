"""Checkpoints of a run: written during the training, complete or absent, and read on any number of ranks.

`DIR/step-00000100/` holds the tensors that change (trained weights and their optimizer's state) and the JSON states of
the run and of each rank; see `owl2.training.checkpoint.safetensors_storage` for the files. Frozen weights are not in
it, but in the model that the run began with.
"""

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException, DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from .safetensors_storage import (
    MANIFEST,
    STATE,
    SafetensorsReader,
    SafetensorsWriter,
    damaged_files,
    partial_of,
    read_index,
)


class DamagedCheckpoint(ValueError):
    """The newest checkpoint has changed since it was written: the message names its files and the one before it."""


class SavedState(NamedTuple):
    """The contents of a checkpoint beside the tensors.

    Attributes:
        step: Number of optimizer steps that were done.
        shared: JSON state of the run: data position, skipped steps, metrics.
        rank: JSON state of this rank, such as its random state; `None` if the number of ranks has changed.
    """

    step: int
    shared: dict[str, Any]
    rank: dict[str, Any] | None


class Checkpoints:
    """The checkpoints of one run. Every rank makes and calls it alike.

    Args:
        directory: Directory on a file system that all ranks share.
        keep: Number of newest checkpoints that remain.
        asynchronous: Write while training continues; only copying to the host stops it. The copy's memory is kept.
    """

    def __init__(self, directory: Path, keep: int = 2, asynchronous: bool = True) -> None:
        self.directory, self.keep, self.asynchronous = directory, keep, asynchronous
        self._distributed = dist.is_initialized()
        # Of its own: the background thread must not mix its collectives with those of the training.
        self._group = dist.new_group(backend="gloo") if self._distributed else None
        self._rank = dist.get_rank() if self._distributed else 0
        self._size = dist.get_world_size() if self._distributed else 1
        self._pending: Future[Any] | None = None
        # One for all saves: copying into memory that was used before stops the training several times shorter.
        self._copies = DefaultStager(StagingOptions(False, False, False, False))

    def save(
        self, step: int, tensors: dict[str, torch.Tensor], shared: dict[str, Any], rank: dict[str, Any] | None = None
    ) -> None:
        """Saves the state after `step` optimizer steps, once the save before is complete.

        Args:
            tensors: Tensors by name, the same names on every rank: `DTensor`s, or equal whole tensors on all ranks.
                They may change as soon as this returns.
            shared, rank: JSON states; see `SavedState`.

        Raises:
            OSError: This checkpoint, or the one before, cannot be written.
        """
        self.wait()
        writer = SafetensorsWriter(directory_of(self.directory, step), self._rank, shared, rank, self._remove_old)
        options: dict[str, Any] = {
            "storage_writer": writer,
            "planner": DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
            "process_group": self._group,
            "no_dist": not self._distributed,
        }
        with self._errors_of_saving(f"the checkpoint {writer.directory} cannot be written"):
            if self.asynchronous:
                saving = dcp.async_save(tensors, async_stager=self._copies, **options)
                self._pending = saving if isinstance(saving, Future) else saving.upload_completion
            else:
                dcp.save(tensors, **options)

    def wait(self) -> None:
        """Waits until the checkpoint that is being written is complete; raises its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with self._errors_of_saving(f"the last checkpoint in {self.directory} cannot be written"):
                pending.result()

    def load_latest(self, tensors: dict[str, torch.Tensor]) -> SavedState | None:
        """Writes the newest complete checkpoint into the tensors; `None` if there is none.

        Raises:
            DamagedCheckpoint: A file of it has changed since it was written.
            ValueError: It holds tensors of other names or shapes.
            OSError: It cannot be read.
        """
        found: list[Any] = [None]
        if self._rank == 0:
            self._remove_unfinished()
            found = [max(complete_steps(self.directory), default=None)]
        if self._distributed:
            dist.broadcast_object_list(found, 0, self._group)
        return None if found[0] is None else self._load(found[0], tensors)

    def _load(self, step: int, tensors: dict[str, torch.Tensor]) -> SavedState:
        directory = directory_of(self.directory, step)
        self._refuse_damaged(directory)
        _check_same(tensors, read_index(directory), directory)
        with _plain_errors(f"the checkpoint {directory} cannot be read"):
            dcp.load(
                tensors,
                storage_reader=SafetensorsReader(directory),
                planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                process_group=self._group,
                no_dist=not self._distributed,
            )
        ranks = json.loads((directory / MANIFEST).read_text())["ranks"]
        own = directory / f"rank-{self._rank:05d}.json"
        return SavedState(
            step=step,
            shared=json.loads((directory / STATE).read_text()),
            rank=json.loads(own.read_text()) if ranks == self._size else None,
        )

    def _refuse_damaged(self, directory: Path) -> None:
        """Refuses a damaged checkpoint: each rank checks a share of the files, and all ranks agree."""
        problems = damaged_files(directory, self._rank, self._size)
        if self._distributed:
            gathered: list[Any] = [None] * self._size
            dist.all_gather_object(gathered, problems, group=self._group)
            problems = sorted({problem for of_rank in gathered for problem in of_rank})
        if problems:
            raise DamagedCheckpoint(describe_damage(directory, problems))

    @contextmanager
    def _errors_of_saving(self, what: str) -> Iterator[None]:
        """Raises errors as `_plain_errors` does, and removes the unfinished checkpoint: it may fill the disk."""
        try:
            with _plain_errors(what):
                yield
        except OSError:
            if self._rank == 0:
                self._remove_unfinished()
            raise

    def _remove_unfinished(self) -> None:
        for unfinished in self.directory.glob("step-*.partial"):
            shutil.rmtree(unfinished)

    def _remove_old(self) -> None:
        for step in sorted(complete_steps(self.directory))[: -self.keep]:
            old = directory_of(self.directory, step)
            shutil.rmtree(old.rename(partial_of(old)))  # never half a checkpoint under a complete one's name


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Raises an error of any rank as an `OSError` on all: torch's own is not an `Exception`, and shows every stack."""
    try:
        yield
    except CheckpointException as failed:
        rank, (error, _) = next(iter(failed.failures.items()))
        raise OSError(f"{what}: on rank {rank} {type(error).__name__}: {error}") from failed


def directory_of(directory: Path, step: int) -> Path:
    """The directory of the checkpoint of a step."""
    return directory / f"step-{step:08d}"


def complete_steps(directory: Path) -> list[int]:
    """The steps of the complete checkpoints in a directory."""
    names = [path.name for path in directory.glob("step-*") if path.is_dir()]
    return [int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d{8,})", name))]


def describe_damage(directory: Path, problems: list[str]) -> str:
    """Says what is wrong with a checkpoint, and which one precedes it."""
    step = int(directory.name.removeprefix("step-"))
    before = max((other for other in complete_steps(directory.parent) if other < step), default=None)
    remedy = (
        f"Move {directory.name} away to resume from step {before}, the checkpoint before it"
        if before is not None
        else f"There is none before it: move {directory.name} away to begin again"
    )
    return f"the checkpoint {directory} is damaged: {'; '.join(problems)}. {remedy}"


def _check_same(tensors: dict[str, torch.Tensor], saved: dict[str, Any], directory: Path) -> None:
    here = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    there = {name: tuple(entry["shape"]) for name, entry in saved.items()}
    different = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if different:
        name = different[0]
        raise ValueError(
            f"the checkpoint {directory} is of another run: {len(different)} tensors differ, among them {name} with "
            f"shape {there.get(name, 'none')} there and {here.get(name, 'none')} here"
        )
