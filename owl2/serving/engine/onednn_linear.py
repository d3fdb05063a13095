"""Matrix products of the engine on a CPU, by oneDNN for few different numbers of rows.

In float32 PyTorch takes MKL for them, which on AMD's processors reaches less than half of the speed. In lower precision
it takes oneDNN, but for any number of rows (`padded_rows`).
"""

import platform
from collections.abc import Callable

import torch
from torch import nn

LEAST_ROWS = 4
"""For fewer rows PyTorch's own choice is as fast or faster."""
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
        return _in_padded_rows(self._product, input)

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")


class PaddedLinear(nn.Module):
    """Another layer's products, such as those with weights in 8 bits, which end in oneDNN in lower precision."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.numel() < LEAST_ROWS * self.layer.in_features or input.dtype == torch.float32:
            return self.layer(input)
        return _in_padded_rows(self.layer, input)


def _in_padded_rows(product: Callable[[torch.Tensor], torch.Tensor], input: torch.Tensor) -> torch.Tensor:
    """A product [..., M] of an input [..., K], computed on rows [R, K] with zeros below."""
    rows = input.reshape(-1, input.shape[-1])
    padding = padded_rows(len(rows)) - len(rows)
    output = product(nn.functional.pad(rows, (0, 0, 0, padding)) if padding else rows)
    return output[: len(rows)].view(*input.shape[:-1], output.shape[-1])


def padded_rows(count: int) -> int:
    """The number of rows that is computed.

    oneDNN compiles a program of some 400 kB for every number of rows and keeps a thousand of them: without this the
    memory of a server grows for hours.
    """
    step = _STEP if count <= _FEW_ROWS else _LARGE_STEP
    return -(-count // step) * step


def use_onednn(module: nn.Module) -> None:
    """Replaces the linear layers of a module that are on a CPU of x86, where PyTorch has oneDNN."""
    dtypes = _dtypes()
    for name, layer in list(module.named_modules()):
        if not dtypes or not isinstance(layer, nn.Linear) or layer.weight.device.type != "cpu":
            continue
        if not _is_plain(layer):
            module.set_submodule(name, PaddedLinear(layer))
        elif layer.weight.dtype in dtypes:
            module.set_submodule(name, OneDnnLinear(layer))


def _dtypes() -> set[torch.dtype]:
    """Those that oneDNN computes here."""
    if platform.machine() not in ("x86_64", "AMD64") or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return set()
    supported = {
        torch.float32: True,
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    return {dtype for dtype, is_supported in supported.items() if is_supported}


def _is_plain(layer: nn.Linear) -> bool:
    """Whether a layer is only its matrix: no hook or quantized weight."""
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter
        and not (layer._forward_hooks or layer._forward_pre_hooks)
    )
