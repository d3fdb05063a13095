"""Tensors of a checkpoint that are read one at a time, when they are wanted: their sizes are known, their values not.

A model of any size is converted with the memory of a few tensors: what a name, a shape or a type says is computed for
all tensors at once, what needs values is computed as each is written (`owl2.checkpoints.shards`).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from owl2.modeling import CheckpointError, Owl2Config
from owl2.modeling.official_checkpoint import (
    fixed_tables,
    is_table,
    official_to_owl2,
    owl2_to_official,
)
from owl2.modeling.stored_weights import first_line, headers, read_weights

from .manifest import check_file

_VISION_ATTENTION = re.compile(r"^(model\.vision_tower\.layers\.\d+\.self_attn)\.[qkv]_proj\.")


class LazyTensor(NamedTuple):
    """A tensor that is not in memory.

    Attributes:
        like: A tensor of its shape and type, on the device "meta".
        read: A function that reads or computes its values.
    """

    like: torch.Tensor
    read: Callable[[], torch.Tensor]

    @property
    def bytes(self) -> int:
        return self.like.numel() * self.like.element_size()


LazyState = dict[str, LazyTensor]
"""Tensors by name, in the order of the files, in which they are best read."""


class _Files:
    """Reads tensors of several files and keeps one file open at a time."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._tensors: Mapping[str, Callable[[], torch.Tensor]] = {}
        self._checked: set[Path] = set()

    def read(self, path: Path, name: str) -> torch.Tensor:
        if path != self._path:
            self._path, self._tensors = None, {}  # closes the last file before the next one is mapped
            if path not in self._checked:
                check_file(path)
                self._checked.add(path)
            self._tensors = _readers(path)
            self._path = path
        try:
            return self._tensors[name]()
        except SafetensorError as error:
            raise CheckpointError(f"{path} cannot be read as weights: {first_line(error)}") from error


def stored_tensors(files: Iterable[Path]) -> LazyState:
    """The tensors of safetensors and `.bin` files. Nothing in a pickle is executed.

    A file that has its SHA-256 beside it (`owl2.checkpoints.manifest`) is compared with it before it is read.

    Raises:
        CheckpointError: A file cannot be read, or, when a tensor is read, has changed since it was written.
    """
    opened = _Files()
    state: LazyState = {}
    for file in files:
        for name, like in headers(file):
            state[name] = LazyTensor(like, partial(opened.read, file, name))
    return state


def _readers(file: Path) -> dict[str, Callable[[], torch.Tensor]]:
    """A function for each tensor of a file, which stays open as long as they live."""
    if file.suffix != ".safetensors":
        return {name: partial(_same, tensor) for name, tensor in read_weights(file).items()}
    try:
        handle: Any = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{file} cannot be read as weights: {first_line(error)}") from error
    return {name: partial(handle.get_tensor, name) for name in handle.keys()}


def in_precision(state: Mapping[str, LazyTensor], dtype: torch.dtype) -> LazyState:
    """The same tensors in another type of number."""
    return {name: mapped(tensor, lambda values: values.to(dtype)) for name, tensor in state.items()}


def mapped(tensor: LazyTensor, change: Callable[[torch.Tensor], torch.Tensor]) -> LazyTensor:
    """What a function makes of a tensor; it is called for the size at once, and for the values when they are read."""
    return LazyTensor(change(tensor.like), lambda: change(tensor.read()))


def lazy_owl2(state: Mapping[str, LazyTensor], config: Owl2Config) -> LazyState:
    """Official tensors in our names and layout, as `official_to_owl2` gives them.

    Raises:
        CheckpointError: A table of fixed positions or frequencies is not the computed one, or a tensor has an
            impossible shape.
    """
    ours: LazyState = {}
    for name, tensor in state.items():
        if is_table(name):
            official_to_owl2({name: tensor.read()}, config)  # compares it
            continue
        for target, like in official_to_owl2({name: tensor.like}, config).items():
            ours[target] = LazyTensor(like, partial(_converted, {name: tensor}, target, config, official_to_owl2))
    return ours


def lazy_official(state: Mapping[str, LazyTensor], config: Owl2Config) -> LazyState:
    """Our tensors in the official names and layout, tables included, as `owl2_to_official` gives them."""
    tables = fixed_tables(config)
    groups: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in state.items():  # query, key and value of a vision layer are one tensor there
        groups.setdefault(_VISION_ATTENTION.sub(r"\1.", name), {})[name] = tensor
    official: LazyState = {}
    for group in groups.values():
        for target, like in _to_official({name: tensor.like for name, tensor in group.items()}, config).items():
            official[target] = LazyTensor(like, partial(_converted, group, target, config, _to_official))
    return official | {name: LazyTensor(table.to("meta"), partial(_same, table)) for name, table in tables.items()}


def _to_official(state: Mapping[str, torch.Tensor], config: Owl2Config) -> dict[str, torch.Tensor]:
    return owl2_to_official(state, config, tables=False)


def _converted(
    group: Mapping[str, LazyTensor],
    target: str,
    config: Owl2Config,
    convert: Callable[[Mapping[str, torch.Tensor], Owl2Config], dict[str, torch.Tensor]],
) -> torch.Tensor:
    return convert({name: tensor.read() for name, tensor in group.items()}, config)[target]


def in_memory(tensor: torch.Tensor) -> LazyTensor:
    """A lazy tensor whose values are in memory already."""
    return LazyTensor(tensor.to("meta"), partial(_same, tensor))


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
