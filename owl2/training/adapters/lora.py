"""Low-rank adapters (LoRA) on the language decoder, through PEFT, beside parts that train in full.

The folder that holds them (`owl2.checkpoints.adapter_folder`) is PEFT's own, so `owl2.checkpoints.adapters` and
`PeftModel.from_pretrained` both read it.

Adapters are put into the model in place: it stays an `Owl2ForConditionalGeneration`, whose parameters keep their names
but for `.base_layer` in front of a frozen weight that has an adapter.
"""

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from owl2.checkpoints.adapter_folder import ADAPTER, CONFIG, PREFIX, WEIGHTS, peft
from owl2.checkpoints.adapters import inject_adapter, require_adapters
from owl2.modeling import Owl2ForConditionalGeneration, Owl2TextConfig
from owl2.modeling.parts import projection_sizes
from owl2.spelling import did_you_mean


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

    Other trained parameters stay as they are, so call it after `select_trainable`.

    Args:
        targets: Names of projections of a decoder layer (`q_proj`, `vision_k_proj`, `gate_proj`, ...); by default all
            that came with the language model.

    Returns:
        Number of parameters of the adapters.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: The rank is not positive, or there is no such projection.
    """
    if rank < 1:
        raise ValueError(f"the rank of LoRA is {rank}, but must be at least 1")
    config = model.config.text_config
    names = default_targets(config) if targets is None else tuple(dict.fromkeys(targets))
    _check_targets(names, config)
    options = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": _pattern(names)}
    return inject_adapter(model, peft().LoraConfig(**options))


def save_adapter(
    model: Owl2ForConditionalGeneration, directory: str | Path, base: str | Path | None = None, write: bool = True
) -> None:
    """Writes adapters and everything else that trains to a folder in PEFT's layout.

    Args:
        base: The model below the adapters, by the name under which it will be found again.
        write: `False` on ranks that only take part in gathering what is sharded.

    Raises:
        ValueError: There are no adapters in the model.
    """
    require_adapters(model)
    config = model.peft_config[ADAPTER]
    stored = config.to_dict() | {
        "base_model_name_or_path": None if base is None else str(base),
        "modules_to_save": modules_trained_in_full(model) or None,
        "inference_mode": True,
        "task_type": None,
    }
    tensors = {
        PREFIX + name.replace(f".{ADAPTER}.", "."): _as_plain_tensor(parameter)
        for name, parameter in parameters_of_folder(model).items()
    }
    if write:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(stored, indent=2, sort_keys=True, default=_plain)
        (directory / CONFIG).write_text(text + "\n", encoding="utf-8")
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def parameters_of_folder(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters in an adapter folder of the model: adapters, and all parameters of modules that train in full."""
    whole = modules_trained_in_full(model)
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name or any(_is_inside(name, module) for module in whole)
    }


def modules_trained_in_full(model: nn.Module) -> list[str]:
    """The last parts of the names of modules with trained parameters that are not adapters."""
    found = dict.fromkeys(
        _module_of(name)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and ".lora_" not in name
    )
    return list(found)


def _module_of(name: str) -> str:
    """The short name of the module that is saved for a parameter; PEFT matches names of modules by their ends."""
    for whole in ("vision_tower", "abstractor"):
        if f".{whole}." in name:
            return whole
    module = name.rpartition(".")[0]
    return module.rpartition(".")[2] if ".layers." in module else module.removeprefix("model.")


def _is_inside(name: str, module: str) -> bool:
    return re.search(rf"(^|\.){re.escape(module)}\.", name) is not None


def _pattern(targets: Iterable[str]) -> str:
    """PEFT's regular expression for projections of the language decoder; abstractor and encoder have such names too."""
    return rf".*\blanguage_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(targets)})"


def _check_targets(targets: tuple[str, ...], config: Owl2TextConfig) -> None:
    known = list(projection_sizes(config))
    unknown = [name for name in targets if name not in known]
    if unknown or not targets:
        hint = did_you_mean(difflib.get_close_matches(unknown[0], known, 1) if unknown else [])
        raise ValueError(
            f"LoRA has no targets {', '.join(unknown) or '(none are given)'} in this model: {hint}choose among "
            f"{', '.join(known)}"
        )


def _as_plain_tensor(parameter: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor on the host, gathered if it is sharded.

    Recipes with LoRA have no tensor ranks: it is split over data ranks alone, which torch gathers itself. (Two splits
    need `gather_tensor`.)
    """
    whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return whole.detach().cpu().contiguous()


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)
