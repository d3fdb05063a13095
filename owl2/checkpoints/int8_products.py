"""Linear layers in 8 bits on a CPU, with one row multiplied as the weights are stored: decoding takes that.

torchao makes a copy of the weight in the model's precision for every product, which takes longer than decoding without
8 bits does. torch has a product with weights in 8 bits for a few rows.
"""

from typing import Any

import torch
from torch import nn


class Int8Linear(nn.Linear):
    """A linear layer with torchao's weights of 8 bits around 0 and one scale for each output."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.numel() != self.in_features or (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)
        weight: Any = self.weight  # torchao's subclass of a tensor
        quantized, scales = weight.qdata, weight.scale.flatten().to(input.dtype)
        product = torch.ops.aten._weight_int8pack_mm(input.reshape(1, -1), quantized, scales)
        product = product.view(*input.shape[:-1], self.out_features)
        return product if self.bias is None else product + self.bias


def use_int8_products(model: nn.Module) -> None:
    """Makes an `Int8Linear` of each layer that torchao keeps in 8 bits, in place; their weights stay."""
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and _is_in_8_bits(layer.weight):
            with torch.device("meta"):
                own = Int8Linear(layer.in_features, layer.out_features, layer.bias is not None)
            own.weight, own.bias = layer.weight, layer.bias
            model.set_submodule(name, own.train(layer.training))


def _is_in_8_bits(weight: torch.Tensor) -> bool:
    data, scale, zero = (getattr(weight, name, None) for name in ("qdata", "scale", "zero_point"))
    return (
        isinstance(data, torch.Tensor)
        and isinstance(scale, torch.Tensor)
        and (data.dtype, data.shape, data.device.type) == (torch.int8, weight.shape, "cpu")
        and scale.numel() == len(data)
        and (zero is None or not zero.any())
        and data.shape[1] % 16 == 0  # torch reads 16 weights at once, and beyond the end of other rows
        and all(getattr(weight, name, None) is None for name in ("act_quant_kwargs", "act_pre_scale"))
    )
