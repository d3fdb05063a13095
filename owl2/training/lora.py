"""Low-rank adapters (LoRA) on the language decoder, through PEFT, beside parts that train in full.

An adapter folder is PEFT's own: `adapter_config.json`, and `adapter_model.safetensors` with the adapters and with every
module that trained in full (PEFT's `modules_to_save`). So `load_adapter` and `PeftModel.from_pretrained` both read it.

Adapters are put into the model in place: it stays an `Owl2ForConditionalGeneration`, whose parameters keep their names
but for `.base_layer` in front of a frozen weight that has an adapter.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from owl2.modeling import Owl2ForConditionalGeneration, Owl2TextConfig

from .flops import projection_sizes

ADAPTER = "default"
"""PEFT's name of the only adapter."""

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."  # of PEFT's names on the disk


def default_targets(config: Owl2TextConfig) -> tuple[str, ...]:
    """All projections of a decoder layer that came with the language model."""
    return tuple(name for name in projection_sizes(config) if not name.startswith("vision_"))


def apply_lora(
    model: Owl2ForConditionalGeneration,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: Iterable[str] | None = None,
) -> int:
    """Adds adapters to projections of the language decoder, in place: W x + alpha / rank B A x, and freezes their W.

    What else trains stays as it is, so call it after `select_trainable`.

    Args:
        targets: names of projections of a decoder layer (`q_proj`, `vision_k_proj`, `gate_proj`, ...); by default all
            that came with the language model.

    Returns:
        Number of parameters of the adapters.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: the rank is not positive, or there is no such projection.
    """
    if rank < 1:
        raise ValueError(f"the rank of LoRA is {rank}, but must be at least 1")
    config = model.config.text_config
    names = default_targets(config) if targets is None else tuple(dict.fromkeys(targets))
    _check_targets(names, config)
    options = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": _pattern(names)}
    return _inject(model, _peft().LoraConfig(**options))


def has_adapters(model: nn.Module) -> bool:
    """Whether adapters are in the model."""
    return any(".lora_A." in name for name, _ in model.named_parameters())


def save_adapter(
    model: Owl2ForConditionalGeneration, directory: str | Path, base: str | Path | None = None, write: bool = True
) -> None:
    """Writes adapters and all else that trains to a folder in PEFT's layout.

    Args:
        base: the model that the folder goes on top of, as it is to be found again.
        write: `False` on ranks that only take part in gathering what is sharded.

    Raises:
        ValueError: there are no adapters in the model.
    """
    _require_adapters(model)
    whole = modules_trained_in_full(model)
    config = model.peft_config[ADAPTER]
    stored = config.to_dict() | {
        "base_model_name_or_path": None if base is None else str(base),
        "modules_to_save": whole or None,
        "inference_mode": True,
        "task_type": None,
    }
    tensors = {
        _PREFIX + name.replace(f".{ADAPTER}.", "."): _as_plain_tensor(parameter)
        for name, parameter in model.named_parameters()
        if ".lora_" in name or any(_is_inside(name, module) for module in whole)
    }
    if write:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(stored, indent=2, sort_keys=True, default=_plain)
        (directory / _CONFIG).write_text(text + "\n", encoding="utf-8")
        save_file(tensors, directory / _WEIGHTS, metadata={"format": "pt"})


def load_adapter(
    model: Owl2ForConditionalGeneration, directory: str | Path, trainable: bool = False
) -> Owl2ForConditionalGeneration:
    """Puts an adapter folder on top of its base model, in place, at the resolution that its vision encoder learnt at.

    Args:
        trainable: let the adapters train on; whether other parameters train is left as it is.

    Returns:
        The same model.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: the folder is not one of LoRA, is damaged, does not fit the model, or the model has adapters.
    """
    directory = Path(directory)
    if has_adapters(model):
        raise ValueError("the model has adapters already: merge them first, or load the base model again")
    tensors = _read(directory)
    _match_resolution(model, tensors)
    _inject(model, _read_config(directory))
    parameters = {name.replace(f".{ADAPTER}.", "."): parameter for name, parameter in model.named_parameters()}
    _check_fit(tensors, parameters, directory)
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad_(trainable)
    return model


@torch.no_grad()
def merge_adapters(model: Owl2ForConditionalGeneration) -> Owl2ForConditionalGeneration:
    """Adds B A to each W and takes the adapters out, in place; the model is then a plain one.

    Returns:
        The same model.

    Raises:
        ValueError: there are no adapters, or the base weights are quantized.
    """
    _require_adapters(model)
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if not isinstance(module, LoraLayer):
            continue
        base = module.get_base_layer()
        if not base.weight.is_floating_point():
            raise ValueError(f"{name} is quantized: merge into the base model in full precision (owl2 merge-lora)")
        module.merge(safe_merge=True)  # raises where the sum is not finite
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, base)
    del model.peft_config
    return model


def modules_trained_in_full(model: nn.Module) -> list[str]:
    """Names, from their end, of the modules that hold parameters which train and are no adapters."""
    found = dict.fromkeys(
        _module_of(name)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and ".lora_" not in name
    )
    return list(found)


def _module_of(name: str) -> str:
    """Short name of the module that is saved for a parameter; PEFT matches names of modules by how they end."""
    for whole in ("vision_tower", "abstractor"):
        if f".{whole}." in name:
            return whole
    module = name.rpartition(".")[0]
    return module.rpartition(".")[2] if ".layers." in module else module.removeprefix("model.")


def _is_inside(name: str, module: str) -> bool:
    return re.search(rf"(^|\.){re.escape(module)}\.", name) is not None


def _inject(model: Owl2ForConditionalGeneration, config: Any) -> int:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    _peft().inject_adapter_in_model(config, model, ADAPTER)  # freezes all but the adapters
    count = 0
    for name, parameter in model.named_parameters():
        is_adapter = ".lora_" in name
        count += parameter.numel() * is_adapter
        parameter.requires_grad_(is_adapter or name in trained)
    return count


def _pattern(targets: Iterable[str]) -> str:
    """PEFT's regular expression for projections of the language decoder; abstractor and encoder have such names too."""
    return rf".*\blanguage_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(targets)})"


def _check_targets(targets: tuple[str, ...], config: Owl2TextConfig) -> None:
    known = list(projection_sizes(config))
    unknown = [name for name in targets if name not in known]
    if unknown or not targets:
        near = difflib.get_close_matches(unknown[0], known, 1) if unknown else []
        hint = f": did you mean {near[0]}?" if near else "."
        raise ValueError(
            f"LoRA has no targets {', '.join(unknown) or '(none are given)'} in this model{hint} Choose among "
            f"{', '.join(known)}."
        )


def _read_config(directory: Path) -> Any:
    file = directory / _CONFIG
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if stored.get("peft_type") != "LORA":
        raise ValueError(f"{file} describes an adapter of the kind {stored.get('peft_type')!r}, not LORA")
    config = _peft().LoraConfig.from_pretrained(directory)
    config.modules_to_save = None  # what trained in full is written into the model itself: nothing is to be wrapped
    config.inference_mode = False
    return config


def _read(directory: Path) -> dict[str, torch.Tensor]:
    """Tensors of a folder by their names in the model."""
    for file in (_CONFIG, _WEIGHTS):
        if not (directory / file).is_file():
            raise ValueError(f"{directory} is no adapter folder: it has no {file}")
    try:
        tensors = load_file(directory / _WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{directory / _WEIGHTS} cannot be read: {error}") from error
    return {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}


def _match_resolution(model: Owl2ForConditionalGeneration, tensors: Mapping[str, torch.Tensor]) -> None:
    """Stage 2 starts from a model of 224 px and trains its positions at 448 (section 4.1)."""
    table = tensors.get("model.vision_tower.position_embedding")
    tower = model.model.vision_tower
    if table is not None and table.shape != tower.position_embedding.shape:
        grid = round((len(table) - tower.num_prefix) ** 0.5)
        model.set_image_size(grid * tower.config.patch_size)


def _check_fit(tensors: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor], directory: Path) -> None:
    adapters = {name for name in parameters if ".lora_" in name}
    problems = [f"{name} is missing in the folder" for name in sorted(adapters - tensors.keys())]
    for name, tensor in tensors.items():
        if name not in parameters:
            problems.append(f"{name} is not in the model")
        elif tensor.shape != parameters[name].shape:
            problems.append(f"{name} is {list(tensor.shape)}, in the model {list(parameters[name].shape)}")
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ValueError(
            f"the adapter {directory} does not fit this base model: {'; '.join(problems[:4])}{more}. "
            f"It was made for {_read_base(directory) or 'a model that it does not name'}."
        )


def _read_base(directory: Path) -> str | None:
    return json.loads((directory / _CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")


def _require_adapters(model: nn.Module) -> None:
    if not has_adapters(model):
        raise ValueError("there are no adapters in the model: call apply_lora or load_adapter first")


def _as_plain_tensor(parameter: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor on the host, gathered where it is sharded."""
    whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return whole.detach().cpu().contiguous()


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError('LoRA needs PEFT: install it with pip install "owl2[train]"') from error
    return peft
