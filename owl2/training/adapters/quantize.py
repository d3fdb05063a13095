"""The frozen projections of the language decoder in 4 bits, for LoRA on top of them (QLoRA), through bitsandbytes."""

from typing import Any

import torch
from torch import nn

from owl2.modeling import Owl2ForConditionalGeneration

BLOCK_SIZE = 64
"""The number of weights that share a scale."""

BYTES_PER_WEIGHT = 0.5 + (1 + 4 / 256) / BLOCK_SIZE
"""Half a byte, and for each block a byte of scale and 1/256 of a float32 (QLoRA's double quantization)."""


def quantize_frozen_projections(
    model: Owl2ForConditionalGeneration, compute_dtype: torch.dtype, device: torch.device | str = "cpu"
) -> int:
    """Keeps the decoder's frozen linear layers in 4 bits (NF4), in place, on the device that they will run on.

    Vision encoder, abstractor, embeddings and head keep their precision. Call it after `select_trainable` and before
    `apply_lora`. In a model without weights (on the device "meta") they wait for their weights: see `in_4_bits`.

    Returns:
        Number of weights in 4 bits.

    Raises:
        ImportError: bitsandbytes is not installed.
        ValueError: No linear layer is frozen, or one is too narrow.
    """
    bitsandbytes = _bitsandbytes()
    layers = model.model.language_model.layers
    frozen = {
        name: module
        for name, module in layers.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.requires_grad
    }
    if not frozen:
        raise ValueError("no linear layer of the language decoder is frozen: there is nothing to keep in 4 bits")
    for name, module in frozen.items():
        if module.in_features < BLOCK_SIZE:
            raise ValueError(f"{name} has {module.in_features} inputs, but 4 bits need at least {BLOCK_SIZE}")
        quantized = _quantized(module, compute_dtype, bitsandbytes)
        layers.set_submodule(name, quantized if module.weight.is_meta else quantized.to(device))
    model.is_loaded_in_4bit = True  # PEFT looks here
    return sum(module.in_features * module.out_features for module in frozen.values())


def waits_for_4_bits(parameter: nn.Parameter) -> bool:
    """Whether this is the place of a weight that will be kept in 4 bits."""
    return getattr(parameter, "bnb_quantized", True) is False


def in_4_bits(place: nn.Parameter, weight: torch.Tensor) -> nn.Parameter:
    """A weight [out, in] in 4 bits, on the device where it is.

    Args:
        place: The place that the result will take; see `waits_for_4_bits`.
    """
    made_like = {name: getattr(place, name) for name in ("blocksize", "quant_type", "compress_statistics", "module")}
    packed = type(place)(weight, requires_grad=False, **made_like).to(weight.device)  # packs
    assert isinstance(packed, nn.Parameter), "bitsandbytes keeps its own class"
    return packed


def _quantized(module: nn.Linear, compute_dtype: torch.dtype, bitsandbytes: Any) -> nn.Module:
    with torch.device("meta"):
        quantized = bitsandbytes.nn.Linear4bit(
            module.in_features, module.out_features, module.bias is not None, compute_dtype, quant_type="nf4"
        )
    quantized.weight = bitsandbytes.nn.Params4bit(
        module.weight.data, requires_grad=False, blocksize=BLOCK_SIZE, quant_type="nf4", module=quantized
    )
    quantized.bias = module.bias
    # Else evaluation on some CPUs packs the weights in another order, and training after it reads them wrongly.
    quantized.support_avx512bf16_for_cpu = False
    return quantized


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise ImportError("4 bits need bitsandbytes: install it with pip install 'owl2[quantization]'") from error
    return bitsandbytes
