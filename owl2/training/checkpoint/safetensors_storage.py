"""Storage of our checkpoints for `torch.distributed.checkpoint`: safetensors and JSON, which cannot hold code.

torch's own storage keeps its index as a pickle, which a stranger's checkpoint could use to run anything. Here a
directory holds one `rank-00000.safetensors` per rank with that rank's pieces, `index.json` with the place of every
piece, and `manifest.json` with the size and SHA-256 of every file. The manifest is written last, and then the directory
gets its name: a directory of that name is complete.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint import StorageReader, StorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from owl2.files import file_sha256

FORMAT = 1
INDEX, MANIFEST, STATE = "index.json", "manifest.json", "state.json"

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float64, torch.float32, torch.bfloat16, torch.float16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)}  # fmt: skip


class Place(NamedTuple):
    """The place of a piece of a tensor."""

    file: str
    key: str


class _Files(NamedTuple):
    """Size and SHA-256 of the files of one rank; travels to the coordinator among the pieces."""

    described: dict[str, dict[str, Any]]


class SafetensorsWriter(StorageWriter):
    """Writes one checkpoint.

    Args:
        directory: Directory of the complete checkpoint, which is written in `directory.partial`.
        shared_state: State that is kept in `state.json`; that of the coordinator counts.
        rank_state: State that is kept in `rank-00000.json`.
        when_complete: Called on the coordinator when the checkpoint has its name.
    """

    def __init__(
        self,
        directory: Path,
        rank: int,
        shared_state: dict[str, Any],
        rank_state: dict[str, Any] | None,
        when_complete: Callable[[], None],
    ) -> None:
        self.directory, self.partial = directory, partial_of(directory)
        self.rank = rank
        self.shared_state, self.rank_state = json.dumps(shared_state), json.dumps(rank_state)  # as they are now
        self.when_complete = when_complete

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Makes an empty directory. The ranks meet between this and `write_data`."""
        if is_coordinator:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        name = f"rank-{self.rank:05d}"
        tensors, results = {}, []
        for item in plan.items:
            assert item.type != WriteItemType.BYTE_IO, f"{item.index.fqn} is not a tensor"
            key = f"{item.index.fqn}@{','.join(map(str, item.index.offset or ()))}"
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, torch.Tensor), f"{item.index.fqn} is not a tensor"
            tensors[key] = tensor.detach().cpu().contiguous()
            size = tensors[key].numel() * tensors[key].element_size()
            results.append(WriteResult(item.index, size, Place(f"{name}.safetensors", key)))
        save_file(tensors, self.partial / f"{name}.safetensors")
        (self.partial / f"{name}.json").write_text(self.rank_state)
        files = _Files(_describe([self.partial / f"{name}{suffix}" for suffix in (".safetensors", ".json")]))
        future: Future[list[WriteResult]] = Future()
        future.set_result([*results, WriteResult(MetadataIndex(""), 0, files)])
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        places: dict[MetadataIndex, Place] = {}
        files: dict[str, dict[str, Any]] = {}
        for result in (result for of_rank in results for result in of_rank):
            if isinstance(result.storage_data, _Files):
                files |= result.storage_data.described
            else:
                places[result.index] = result.storage_data
        (self.partial / INDEX).write_text(json.dumps(_index(metadata, places)))
        (self.partial / STATE).write_text(self.shared_state)
        files |= _describe([self.partial / INDEX, self.partial / STATE])
        (self.partial / MANIFEST).write_text(json.dumps({"format": FORMAT, "ranks": len(results), "files": files}))
        _describe([self.partial / MANIFEST])
        _synchronize(self.partial)
        shutil.rmtree(self.directory, ignore_errors=True)  # of a run that went on from an earlier checkpoint
        self.partial.rename(self.directory)
        _synchronize(self.directory.parent)
        self.when_complete()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        return True


class SafetensorsReader(StorageReader):
    """Reads pieces of a checkpoint, whatever the number of ranks that wrote it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.places: dict[MetadataIndex, Place] = {}

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        pass

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        tensors: Any = {name: _tensor_metadata(entry) for name, entry in read_index(self.directory).items()}
        return Metadata(state_dict_metadata=tensors)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self.places = {
            MetadataIndex(name, piece["offsets"]): Place(piece["file"], piece["key"])
            for name, entry in read_index(self.directory).items()
            for piece in entry["pieces"]
        }

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file: dict[str, list[Any]] = {}
        for item in plan.items:
            by_file.setdefault(self.places[item.storage_index].file, []).append(item)
        for name, items in by_file.items():
            with safe_open(self.directory / name, framework="pt") as file:
                for item in items:
                    piece = file.get_tensor(self.places[item.storage_index].key)
                    for dimension, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                        piece = piece.narrow(dimension, start, length)
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(piece)
                    planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        return True


def partial_of(directory: Path) -> Path:
    """The directory in which a checkpoint is written until it is complete."""
    return directory.with_name(directory.name + ".partial")


def read_index(directory: Path) -> dict[str, Any]:
    """The dtype, shape and pieces of every tensor.

    Raises:
        ValueError: The index is not one of ours.
    """
    index = json.loads((directory / INDEX).read_text())
    for name, entry in index.items():
        if entry["dtype"] not in _DTYPES or any(Path(piece["file"]).name != piece["file"] for piece in entry["pieces"]):
            raise ValueError(f"{directory / INDEX} describes {name} in a way that no checkpoint of ours does")
    return index


def read_tensors(directory: Path, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Whole tensors on the CPU, joined from their pieces without a process group; by default all."""
    index = read_index(directory)
    wanted = index if names is None else names
    tensors = {name: torch.empty(index[name]["shape"], dtype=_DTYPES[index[name]["dtype"]]) for name in wanted}
    by_file: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name in tensors:
        for piece in index[name]["pieces"]:
            by_file.setdefault(piece["file"], []).append((name, piece))
    for file_name, pieces in by_file.items():
        with safe_open(directory / file_name, framework="pt") as file:
            for name, piece in pieces:
                target = tensors[name]
                for dimension, (start, length) in enumerate(zip(piece["offsets"], piece["sizes"], strict=True)):
                    target = target.narrow(dimension, start, length)
                target.copy_(file.get_tensor(piece["key"]))
    return tensors


def damaged_files(directory: Path, share: int = 0, of: int = 1) -> list[str]:
    """What is wrong with the files of a complete checkpoint: missing, of another size, or of another SHA-256.

    Args:
        share, of: Check only every `of`-th file, so that ranks can divide the work.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        files = sorted(manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{MANIFEST} cannot be read ({error})"]
    if manifest.get("format") != FORMAT:
        return [f"{MANIFEST} is of format {manifest.get('format')}, and this version reads {FORMAT}"]
    problems = []
    for name, wanted in files[share::of]:
        file = directory / Path(name).name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != wanted["bytes"]:
            problems.append(f"{name} has {file.stat().st_size} bytes instead of {wanted['bytes']}")
        elif file_sha256(file) != wanted["sha256"]:
            problems.append(f"{name} has changed since it was written")
    return problems


def _index(metadata: Metadata, places: dict[MetadataIndex, Place]) -> dict[str, Any]:
    index = {}
    for name, tensor in metadata.state_dict_metadata.items():
        assert isinstance(tensor, TensorStorageMetadata)
        pieces = []
        for chunk in tensor.chunks:
            place = places[MetadataIndex(name, chunk.offsets)]
            pieces.append({"offsets": list(chunk.offsets), "sizes": list(chunk.sizes), **place._asdict()})
        dtype = str(tensor.properties.dtype).removeprefix("torch.")
        index[name] = {"dtype": dtype, "shape": list(tensor.size), "pieces": pieces}
    return index


def _tensor_metadata(entry: dict[str, Any]) -> TensorStorageMetadata:
    chunks = [ChunkStorageMetadata(torch.Size(p["offsets"]), torch.Size(p["sizes"])) for p in entry["pieces"]]
    return TensorStorageMetadata(TensorProperties(_DTYPES[entry["dtype"]]), torch.Size(entry["shape"]), chunks)


def _describe(files: list[Path]) -> dict[str, dict[str, Any]]:
    """Flushes files to the disk, and returns their sizes and SHA-256."""
    for file in files:
        _synchronize(file)
    return {file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in files}


def _synchronize(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
