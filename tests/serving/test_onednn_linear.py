"""The engine's products by oneDNN are those of the layers that they replace."""

import asyncio
import platform

import pytest
import torch
from engine_helpers import running
from torch import nn

from owl2.serving.engine.onednn_linear import LEAST_ROWS, OneDnnLinear, padded_rows, use_onednn

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only on x86")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(0,), (1,), (LEAST_ROWS,), (1, 64), (1, 200), (2, 0), (3, 7)], ids=str)
@torch.inference_mode()
def test_a_product_is_that_of_float64_to_the_last_digits_of_float32(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(96, 40, bias=bias)
    inputs = torch.randn(*shape, 96)
    replaced = nn.Sequential(layer)
    use_onednn(replaced)
    output = replaced(inputs)
    expected = nn.functional.linear(
        inputs.double(), layer.weight.double(), layer.bias.double() if bias else None
    ).float()
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)


def test_steps_of_up_to_512_tokens_need_few_programs_and_are_hardly_lengthened() -> None:
    counts = range(LEAST_ROWS, 513)
    assert len({padded_rows(count) for count in counts}) <= 22
    assert all(count <= padded_rows(count) <= max(count + 7, 1.5 * count) for count in counts)


def test_only_plain_layers_in_float32_are_replaced_and_they_keep_their_weights() -> None:
    class Other(nn.Linear):
        pass

    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda *args: None)
    kept = [Other(4, 4), nn.Linear(4, 4, dtype=torch.bfloat16), hooked]
    plain = nn.Linear(4, 4)
    replaced = nn.Sequential(nn.Sequential(plain), *kept)
    use_onednn(replaced)
    assert list(replaced)[1:] == kept
    (layer,) = replaced[0]
    assert type(layer) is OneDnnLinear and layer.weight is plain.weight and layer.bias is plain.bias


def test_the_engine_uses_them_and_the_model_that_it_was_given_does_not(loaded, model) -> None:
    async def check() -> None:
        async with running(loaded) as engine:
            layers = [module for module in engine.worker.model.modules() if isinstance(module, nn.Linear)]
            assert {type(layer) for layer in layers} == {OneDnnLinear}

    asyncio.run(check())
    assert not any(isinstance(module, OneDnnLinear) for module in model.modules())
