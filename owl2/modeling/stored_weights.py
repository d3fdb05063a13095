"""The files of a checkpoint's weights: their names, headers and tensors."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from owl2.files import read_json_object

from .configuration import Owl2Config
from .errors import CheckpointError

_FAR = 1.5
"""A configuration with more than this many times the stored parameters belongs to another model."""

STORED_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types of numbers by their names in the headers of safetensors."""


def weight_files(directory: Path) -> list[Path]:
    """The files of a folder's weights.

    Raises:
        CheckpointError: There are none, one is missing, or the index points out of the folder.
    """
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = directory / f"{single}.index.json"
        if index.is_file():
            return _shards(index)
        if (directory / single).is_file():
            return [directory / single]
    raise CheckpointError(f"{directory} has a config.json, but no model.safetensors or pytorch_model.bin")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(
            {str(name) for name in read_json_object(index, "an index", CheckpointError)["weight_map"].values()}
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of weights: it has no weight_map that can be read") from error
    climbing = [name for name in names if Path(name).name != name]
    if climbing:
        raise CheckpointError(f"{index} names files outside its folder: {', '.join(climbing)}")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index} names {', '.join(missing)}, but there is no such file in {index.parent}")
    return [index.parent / name for name in names]


def first_line(error: Exception) -> str:
    """The first line of an error, without what torch and others add; its type if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check_indexes(directory: Path) -> None:
    """Checks the indexes of sharded weights, where a folder has any, before transformers reads them.

    Raises:
        CheckpointError: A shard is missing or points out of the folder, or the file is not an index.
    """
    for index in directory.glob("*.index.json"):
        _shards(index)
        if not isinstance(read_json_object(index, "an index", CheckpointError).get("metadata"), dict):
            raise CheckpointError(f'{index} has no metadata, which transformers needs: add "metadata": {{}}')


def _is_zip(file: Path) -> bool:
    """Whether a file has the zip format of torch >= 1.6, which memory mapping needs."""
    with file.open("rb") as handle:
        return handle.read(2) == b"PK"


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Tensors of one file; no pickle is executed.

    Raises:
        CheckpointError: It cannot be read, or holds something else.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as handle:
                return {name: handle.get_tensor(name) for name in handle.keys()}
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{file} cannot be read as weights: {first_line(error)}") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{file} holds other things than named tensors")
    return tensors


def headers(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names of the tensors of a file with their shapes and types, on the device "meta".

    Raises:
        CheckpointError: The file cannot be read.
    """
    if file.suffix != ".safetensors":
        for name, tensor in read_weights(file).items():
            yield name, tensor.to("meta")
        return
    try:
        with safe_open(file, framework="pt") as handle:
            for name in handle.keys():
                yield name, shape_of(handle.get_slice(name))
    except SafetensorError as error:
        raise CheckpointError(f"{file} cannot be read as weights: {first_line(error)}") from error


def shape_of(header: Any) -> torch.Tensor:
    """Shape and type of a tensor in safetensors, on the device "meta"."""
    dtype = STORED_DTYPES.get(header.get_dtype(), torch.uint8)
    return torch.empty(header.get_shape(), dtype=dtype, device="meta")


def refuse_far_larger(directory: Path, config: Owl2Config, model_class: type[PreTrainedModel]) -> None:
    """Refuses a configuration that describes far more than the files hold, before anything of its size is allocated.

    Smaller differences are found, and named, when the weights are loaded.

    Raises:
        CheckpointError: It does; the message has both numbers of parameters.
    """
    stored = {name: like.numel() for file in weight_files(directory) for name, like in headers(file)}
    parts = (config.vision_config, config.abstractor_config, config.text_config)
    layers = sum(part.num_hidden_layers for part in parts)
    if layers > len(stored):  # even a model without memory takes time for each layer
        raise CheckpointError(
            f"{directory / 'config.json'} describes {layers:,} layers, but the files hold {len(stored):,} tensors"
        )
    with torch.device("meta"):
        described = sum(parameter.numel() for parameter in model_class(config).parameters())
    if described > _FAR * sum(stored.values()):
        raise CheckpointError(
            f"{directory / 'config.json'} describes {described:,} parameters, but the files hold "
            f"{sum(stored.values()):,}: one of them is of another model"
        )
