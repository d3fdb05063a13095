"""Low-rank adapters (LoRA) in a model: put in from a folder, and merged into the weights below them."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from owl2.modeling import Owl2ForConditionalGeneration

from .adapter_folder import ADAPTER, AdapterFolder, peft


def load_adapter(
    model: Owl2ForConditionalGeneration, directory: str | Path, trainable: bool = False
) -> Owl2ForConditionalGeneration:
    """Puts an adapter folder on top of its base model, in place, at the resolution that its vision encoder learnt at.

    Args:
        trainable: Let the adapters train on; whether other parameters train is left as it is.

    Returns:
        The same model.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: The folder is not one of LoRA, is damaged, does not fit the model, or the model has adapters.
    """
    if has_adapters(model):
        raise ValueError("the model has adapters already: merge them first, or load the base model again")
    folder = AdapterFolder(directory)
    inject_adapter(model, folder.config())
    folder.check_fit(model)
    folder.write_into(model)
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
        ValueError: There are no adapters, or the base weights are quantized.
    """
    require_adapters(model)
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if not isinstance(module, LoraLayer):
            continue
        base: Any = module.get_base_layer()
        if not base.weight.is_floating_point():
            raise ValueError(f"{name} is quantized: merge into the base model in full precision (owl2 merge-lora)")
        module.merge(safe_merge=True)  # raises where the sum is not finite
        model.set_submodule(name, base)
    del model.peft_config
    return model


def inject_adapter(model: Owl2ForConditionalGeneration, config: Any) -> int:
    """Puts the adapters of PEFT's configuration into a model, in place; what trained continues to train.

    Returns:
        Number of parameters of the adapters.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    peft().inject_adapter_in_model(config, model, ADAPTER)  # freezes all but the adapters
    count = 0
    for name, parameter in model.named_parameters():
        is_adapter = ".lora_" in name
        count += parameter.numel() * is_adapter
        parameter.requires_grad_(is_adapter or name in trained)
    return count


def has_adapters(model: nn.Module) -> bool:
    """Whether adapters are in the model."""
    return any(".lora_A." in name for name, _ in model.named_parameters())


def require_adapters(model: nn.Module) -> None:
    """Raises ValueError for a model without adapters."""
    if not has_adapters(model):
        raise ValueError("there are no adapters in the model: call apply_lora or load_adapter first")
