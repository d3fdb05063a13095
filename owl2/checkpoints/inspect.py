"""What a checkpoint holds and whether all of it loads, without loading it.

Names, shapes and types come from the headers of the files; only the small tables of fixed positions are read, because
they are checked against the computed ones. The model that they must fit is built on the meta device, without memory.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from owl2.files import model_directory, read_json_object
from owl2.modeling import CheckpointError, Owl2Config, Owl2ForConditionalGeneration
from owl2.modeling.official_checkpoint import official_to_owl2, owl2_to_official
from owl2.modeling.parts import PARTS, part_of
from owl2.modeling.stored_weights import read_weights, shape_of, weight_files
from owl2.spelling import did_you_mean

from .adapter_folder import is_adapter_folder
from .official_adapter import OTHERS, WEIGHTS, is_official_adapter, read_official_adapter

Layout = Literal["owl2", "official", "official adapter"]

MODALITY_OF_PART = {
    "vision_encoder": "vision",
    "abstractor": "vision",
    "decoder_vision": "vision",
    "decoder_text": "text",
    "embeddings": "text",
    "decoder_shared": "both",
}
"""The kind of tokens that each part computes: those of images, of text, or all of them."""


@dataclass
class CheckpointReport:
    """What `inspect_checkpoint` found.

    Attributes:
        parameters: Number of parameters of each part of the configured model, a tied head counted once.
        stored_as: Number of keys in the files by type of number.
        keys: Number of keys in the files.
        keys_used: Number of keys that fill a parameter.
        tables_checked: Number of fixed tables, as computed.
        missing: Parameters that no key fills.
        unexpected: Keys that fill no parameter.
        mismatched: Keys of another shape, with both shapes.
        wrong_tables: Fixed tables that are not the computed ones.
    """

    directory: str
    layout: Layout
    config: Owl2Config
    files: list[str]
    bytes: int
    parameters: dict[str, int]
    stored_as: dict[str, int]
    keys: int
    keys_used: int = 0
    tables_checked: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    wrong_tables: list[str] = field(default_factory=list)

    @property
    def modality_of_part(self) -> dict[str, str]:
        """The kind of tokens that use a part: tokens of images, of text, or both."""
        return {part: MODALITY_OF_PART[part] for part in self.parameters}

    @property
    def fits(self) -> bool:
        """Whether the checkpoint loads, every key of it used."""
        return not (self.missing or self.unexpected or self.mismatched or self.wrong_tables)

    @property
    def problems(self) -> dict[str, list[str]]:
        """What does not fit, by kind."""
        kinds = {
            "missing keys": self.missing,
            "unexpected keys": self.unexpected,
            "mismatched shapes": self.mismatched,
            "wrong tables": self.wrong_tables,
        }
        return {kind: found for kind, found in kinds.items() if found}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        config, text = self.config, self.config.text_config
        return {
            "directory": self.directory,
            "layout": self.layout,
            "fits": self.fits,
            "files": self.files,
            "bytes": self.bytes,
            "stored_as": self.stored_as,
            "parameters": {**self.parameters, "total": sum(self.parameters.values())},
            "parameters_by_modality": {
                modality: sum(count for part, count in self.parameters.items() if MODALITY_OF_PART[part] == modality)
                for modality in ("vision", "text", "both")
            },
            "keys": self.keys,
            "keys_used": self.keys_used + self.tables_checked,
            "tables_checked": self.tables_checked,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mismatched": self.mismatched,
            "wrong_tables": self.wrong_tables,
            "image_size": config.vision_config.image_size,
            "patch_size": config.vision_config.patch_size,
            "connector": config.connector,
            "queries": 0 if config.connector == "mlp" else config.tokens_per_image - 1,
            "tokens_per_image": config.tokens_per_image,
            "context": text.max_position_embeddings,
            "vocabulary": text.vocab_size,
            "modality_adaptive": list(text.modality_adaptive),
        }


def checkpoint_layout(directory: str | Path) -> Layout:
    """Layout of a model directory: ours, or the official code's model or adapter.

    Raises:
        ValueError: The directory does not exist, or holds no mPLUG-Owl2 model.
    """
    path = model_directory(directory)
    if is_official_adapter(path):
        return "official adapter"
    file = path / "config.json"
    if is_adapter_folder(path):
        raise ValueError(
            f"{directory} is the adapter of a model, not a model: owl2 merge-lora {directory} OUT --base BASE makes "
            "one, with BASE the model that it was trained on"
        )
    if not file.is_file():
        raise ValueError(f"{path} has no config.json: it is not a model directory{_hint(path)}")
    fields = read_json_object(file, "the settings of a model")
    if "visual_config" in fields:
        return "official"
    if fields.get("model_type") != Owl2Config.model_type:
        raise ValueError(
            f"{directory} holds a model of type {fields.get('model_type')!r}, not {Owl2Config.model_type!r}: "
            "owl2.checkpoints.initialize makes an mPLUG-Owl2 from a language model"
        )
    return "owl2"


def _hint(path: Path) -> str:
    """Names the folder that may have been meant: that of a run with LoRA holds an adapter and is no model either."""
    adapter, base = path / "checkpoint", path / "initial"
    if (adapter / "adapter_config.json").is_file():
        named = read_json_object(adapter / "adapter_config.json", "the settings of an adapter")
        known = named.get("base_model_name_or_path") or (base if base.is_dir() else "BASE")
        return (
            f". It is a run with LoRA, whose adapter is {adapter}: make a model with owl2 merge-lora {adapter} MODEL "
            f"--base {known}, and take MODEL"
        )
    inner = [child for child in sorted(path.iterdir()) if (child / "config.json").is_file()]
    finished = [child for child in inner if child.name != base.name]
    if (path / "checkpoints").is_dir() and not finished:
        return f". It is a run that is not finished: owl2 export {path} MODEL makes a model of its newest checkpoint"
    return f"; {did_you_mean([str((finished or inner)[0])])}".rstrip() if inner else ""


def inspect_checkpoint(directory: str | Path) -> CheckpointReport:
    """Compares a model directory with the model that its `config.json` describes.

    All keys of an adapter of the official code are compared with the model that they change.

    Raises:
        ValueError: It is not a model directory, or its files cannot be read.
    """
    layout = checkpoint_layout(directory)
    path = Path(directory).expanduser()
    if layout == "official adapter" and not (path / "config.json").is_file():
        raise ValueError(f"{directory} is an adapter without a config.json: what it fits cannot be said")
    try:
        config = Owl2Config.from_pretrained(path)
    except ValueError as error:
        raise ValueError(f"{path / 'config.json'} is not a valid configuration: {error}") from error
    with torch.device("meta"):
        model = Owl2ForConditionalGeneration(config)
    if layout == "official adapter":
        return _inspect_adapter(directory, model)
    files = weight_files(path)
    tensors = {name: tensor for file in files for name, tensor in _read_headers(file)}
    types = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()]
    report = CheckpointReport(
        directory=str(directory),
        layout=layout,
        config=config,
        files=[file.name for file in files],
        bytes=sum(file.stat().st_size for file in files),
        parameters=count_parameters(model),
        stored_as={name: types.count(name) for name in sorted(set(types))},
        keys=len(tensors),
    )
    _compare(tensors, model, report)
    return report


def _inspect_adapter(directory: str | Path, model: Owl2ForConditionalGeneration) -> CheckpointReport:
    path = Path(directory).expanduser()
    adapter = read_official_adapter(path)
    shapes = {name: tensor.shape for name, tensor in owl2_to_official(model.state_dict(), model.config).items()}
    tensors = [tensor for pair in adapter.pairs.values() for tensor in pair] + list(adapter.replaced.values())
    types = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors]
    files = [path / name for name in (*WEIGHTS, OTHERS) if (path / name).is_file()]
    problems = adapter.problems(shapes)
    return CheckpointReport(
        directory=str(directory),
        layout="official adapter",
        config=model.config,
        files=[file.name for file in files],
        bytes=sum(file.stat().st_size for file in files),
        parameters=count_parameters(model),
        stored_as={name: types.count(name) for name in sorted(set(types))},
        keys=adapter.keys,
        keys_used=adapter.keys - _keys_of(problems, adapter.pairs),
        mismatched=problems,
    )


def _keys_of(problems: list[str], pairs: Mapping[str, Any]) -> int:
    """The number of keys of an adapter that do not fit: two for a pair, otherwise one."""
    return sum(2 if problem.split(" ")[0] in pairs else 1 for problem in problems)


def count_parameters(model: Owl2ForConditionalGeneration) -> dict[str, int]:
    """Number of parameters of each part of `owl2.modeling.parts.PARTS`."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[part_of(name, model.config.text_config.modality_adaptive)] += parameter.numel()
    return counts


def _compare(
    tensors: Mapping[str, torch.Tensor], model: Owl2ForConditionalGeneration, report: CheckpointReport
) -> None:
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    given: set[str] = set()
    for key, tensor in tensors.items():
        try:
            ours = official_to_owl2({key: tensor}, report.config) if report.layout == "official" else {key: tensor}
        except CheckpointError as error:
            report.wrong_tables.append(str(error))
            continue
        except RuntimeError:  # a fused projection that cannot be split in the configured number of heads
            report.mismatched.append(f"{key} of {list(tensor.shape)}")
            continue
        if not ours:
            report.tables_checked += 1
        elif not ours.keys() <= expected.keys():
            report.unexpected.append(key)
        else:
            given |= ours.keys()
            wrong = [name for name in ours if ours[name].shape != expected[name]]
            report.mismatched += [
                f"{key} gives {name} of {list(ours[name].shape)}, not {list(expected[name])}" for name in wrong
            ]
            report.keys_used += not wrong
    report.missing = sorted(expected.keys() - given - tied)


def _read_headers(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a file: tables of fixed positions as they are, all else with its shape and type alone."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as handle:
                for name in handle.keys():
                    yield name, handle.get_tensor(name) if _may_be_table(name) else shape_of(handle.get_slice(name))
        else:
            for name, tensor in read_weights(file).items():
                yield name, tensor if _may_be_table(name) else tensor.to("meta")
    except SafetensorError as error:
        raise ValueError(f"the weights {file} cannot be read: {error}") from error


def _may_be_table(name: str) -> bool:
    return name.endswith(("pos_embed", "inv_freq"))
