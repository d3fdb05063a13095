"""Matrix products of the engine in float32 on a CPU, by oneDNN.

PyTorch takes MKL for them, which on AMD's processors reaches less than half of the speed.
"""

import platform
from typing import TypeGuard

import torch
from torch import nn

LEAST_ROWS = 4
"""For fewer rows MKL is as fast or faster."""
_FEW_ROWS, _STEP, _LARGE_STEP = 64, 8, 32


class OneDnnLinear(nn.Linear):
    """A linear layer with the weight and bias of another; it has no gradients."""

    def __init__(self, module: nn.Linear) -> None:
        nn.Module.__init__(self)  # that of a linear layer would make a weight
        self.in_features, self.out_features = module.in_features, module.out_features
        self.weight, self.bias = module.weight, module.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.numel() < LEAST_ROWS * self.in_features:
            return super().forward(input)
        rows = input.reshape(-1, self.in_features)
        padding = padded_rows(len(rows)) - len(rows)
        padded = nn.functional.pad(rows, (0, 0, 0, padding)) if padding else rows
        output = torch.ops.mkldnn._linear_pointwise(padded, self.weight, self.bias, "none", [], "")
        return output[: len(rows)].view(*input.shape[:-1], self.out_features)


def padded_rows(count: int) -> int:
    """The number of rows that is computed.

    oneDNN compiles a program of some 400 kB for every number of rows and keeps a thousand of them: without this the
    memory of a server grows for hours.
    """
    step = _STEP if count <= _FEW_ROWS else _LARGE_STEP
    return -(-count // step) * step


def use_onednn(module: nn.Module) -> None:
    """Replaces the plain linear layers of a module that are in float32 on a CPU of x86, where PyTorch has oneDNN."""
    if platform.machine() not in ("x86_64", "AMD64") or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return
    for name, layer in list(module.named_modules()):
        if _is_replaceable(layer):
            module.set_submodule(name, OneDnnLinear(layer))


def _is_replaceable(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is only its matrix: no adapter, hook or quantized weight."""
    return (
        type(module) is nn.Linear
        and type(module.weight) is nn.Parameter
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
        and not (module._forward_hooks or module._forward_pre_hooks)
    )
