"""Writes weights shard by shard: one shard is in memory, whatever the size of the model.

A folder is written as `NAME.partial` and gets its name when it is complete. Every shard is written beside its place,
brought to the disk, hashed and renamed; so work that was interrupted, or met a full disk, goes on at the next shard.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from owl2.files import WEIGHTS_MANIFEST, write_whole
from owl2.modeling import CheckpointError

from .lazy_tensors import LazyTensor
from .manifest import Manifest

SHARD_BYTES = 2 * 10**9
"""The size of the largest shard, unless one tensor is larger."""


class ShardProgress(NamedTuple):
    """How far the writing of a model is.

    Attributes:
        shard: The file that is complete now.
        of: Number of files.
        bytes: Size of all complete shards.
        total: Size of all shards.
        was_there: Whether an earlier attempt had written it.
    """

    shard: str
    of: int
    bytes: int
    total: int
    was_there: bool


Report = Callable[[ShardProgress], None]


def write_in_shards(
    tensors: Mapping[str, LazyTensor],
    target: Path,
    finish: Callable[[Path], object],
    *,
    made_of: Iterable[str],
    shard_bytes: int = SHARD_BYTES,
    report: Report | None = None,
) -> None:
    """Writes a folder of weights in safetensors, with an index where there are several, or continues to.

    Args:
        target: A folder that does not exist, or is empty.
        finish: Writes what else the folder holds into the one it is given, before that gets its name.
        made_of: Identifies the sources; a partial folder of other sources is begun anew.
        report: Called after each shard.

    Raises:
        ValueError: `target` is not empty, or a folder that is not ours has the name of the partial one.
        CheckpointError: A source is damaged.
        OSError: The disk is full; once there is room, the same call continues.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is there and not empty: choose a new directory")
    shards = plan_shards({name: tensor.bytes for name, tensor in tensors.items()}, shard_bytes)
    folder = target.with_name(target.name + ".partial")
    manifest = _begin(folder, _fingerprint(tensors, shards, made_of))
    sizes = {file: sum(tensors[name].bytes for name in names) for file, names in shards.items()}
    complete = _complete_shards(manifest, shards)
    _require_room(folder, sum(size for file, size in sizes.items() if file not in complete))
    done = 0
    for file, names in shards.items():
        if file not in complete:
            _write_shard(folder / file, {name: tensors[name] for name in names})
            manifest.add(folder / file)
        done += sizes[file]
        if report is not None:
            report(ShardProgress(file, len(shards), done, sum(sizes.values()), file in complete))
    if len(shards) > 1:
        _write_index(folder, shards, sum(sizes.values()))
    finish(folder)
    if target.exists():
        target.rmdir()
    folder.rename(target)


def plan_shards(sizes: Mapping[str, int], shard_bytes: int) -> dict[str, list[str]]:
    """Which tensors each file holds, in their order; a tensor larger than a shard has one for itself.

    Args:
        sizes: Bytes of each tensor.
    """
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{n:05d}-of-{len(groups):05d}.safetensors": group for n, group in enumerate(groups, 1)}


def _fingerprint(tensors: Mapping[str, LazyTensor], shards: Mapping[str, list[str]], made_of: Iterable[str]) -> str:
    sizes = [(name, str(tensor.like.dtype), list(tensor.like.shape)) for name, tensor in tensors.items()]
    return hashlib.sha256(json.dumps([sizes, shards, list(made_of)]).encode()).hexdigest()


def _begin(folder: Path, plan: str) -> Manifest:
    """The partial folder with its contents, emptied where it belongs to other work."""
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / WEIGHTS_MANIFEST).is_file():
            raise ValueError(f"{folder} is there, but no earlier attempt of this: move it away")
        try:
            found = Manifest.read(folder)
        except CheckpointError:
            found = None
        if found is not None and found.plan == plan:
            return found
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(folder, plan)
    manifest.write()
    return manifest


def _complete_shards(manifest: Manifest, shards: Iterable[str]) -> set[str]:
    return {file for file in shards if file in manifest.files and manifest.problem(file) is None}


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{folder} needs {needed / 1e9:.1f} GB more, but its disk has {free / 1e9:.1f} GB: make room, and the same "
            "command continues where it was"
        )


def _write_shard(file: Path, tensors: Mapping[str, LazyTensor]) -> None:
    partial = file.with_name(f".{file.name}.partial")
    try:
        save_file({name: _checked(name, tensor) for name, tensor in tensors.items()}, partial, {"format": "pt"})
        partial.replace(file)
    except SafetensorError as error:
        raise OSError(
            f"{file} cannot be written: {error}. Once there is room, the same command continues here"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _checked(name: str, tensor: LazyTensor) -> torch.Tensor:
    values = tensor.read()
    if values.shape != tensor.like.shape or values.dtype != tensor.like.dtype:
        raise CheckpointError(
            f"{name} is {list(values.shape)} of {values.dtype} now, but was {list(tensor.like.shape)} of "
            f"{tensor.like.dtype} when the work began: a source has changed"
        )
    return values.clone(memory_format=torch.contiguous_format)  # two may be the same, and safetensors refuses that


def _write_index(folder: Path, shards: Mapping[str, list[str]], total: int) -> None:
    weight_map = {name: file for file, names in shards.items() for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_whole(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")
