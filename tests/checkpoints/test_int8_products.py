"""Layers in 8 bits compute for one row, from the weights as they are stored, what torchao computes."""

import pytest
import torch
from torch import nn

from owl2.checkpoints.int8_products import Int8Linear, use_int8_products

pytest.importorskip("torchao")


def in_8_bits(inputs: int, outputs: int, bias: bool, dtype: torch.dtype) -> nn.Sequential:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=bias, dtype=dtype))
    quantize_(model, Int8WeightOnlyConfig())
    return model


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1,), (), (2, 3)], ids=str)
def test_a_layer_computes_what_torchao_does(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    model = in_8_bits(4096, 37, bias, dtype)
    row = torch.randn(*shape, 4096, dtype=dtype)
    weight, before = model[0].weight.dequantize().double(), model[0].bias
    expected = row.double() @ weight.T + (0 if before is None else before.double())
    torchaos = model(row)
    use_int8_products(model)
    assert type(model[0]) is Int8Linear
    product = model(row)
    assert (product.shape, product.dtype) == (torchaos.shape, dtype)
    assert (product - expected).norm() < (1e-2 if dtype == torch.bfloat16 else 1e-5) * expected.norm()


def test_rows_that_torch_would_read_beyond_their_end_stay_torchaos() -> None:
    model = in_8_bits(40, 3, False, torch.bfloat16)
    use_int8_products(model)
    assert type(model[0]) is nn.Linear


def test_weights_in_full_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(64, 3))
    use_int8_products(model)
    assert type(model[0]) is nn.Linear


def test_a_gradient_reaches_the_input() -> None:
    model = in_8_bits(64, 5, False, torch.float32)
    row = torch.randn(1, 64, requires_grad=True)
    use_int8_products(model)
    model(row).sum().backward()
    assert row.grad is not None
    torch.testing.assert_close(row.grad[0], model[0].weight.dequantize().sum(0))
