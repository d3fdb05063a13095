"""The engine's products by oneDNN are those of the layers that they replace."""

import asyncio
import platform

import pytest
import torch
from engine_helpers import running
from torch import nn

from owl2.serving.engine.onednn_linear import LEAST_ROWS, OneDnnLinear, PaddedLinear, padded_rows, use_onednn

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


class Other(nn.Linear):
    """Stands for a layer with quantized weights."""


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16")
@pytest.mark.parametrize("kind", [nn.Linear, Other])
@torch.inference_mode()
def test_any_number_of_rows_in_bfloat16_needs_few_programs_and_has_the_same_product(
    kind: type[nn.Linear], capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    layer = kind(104, 56, dtype=torch.bfloat16)  # a size of no other test: what they compiled is kept
    replaced = nn.Sequential(layer)
    use_onednn(replaced)
    inputs = torch.randn(200, 104, dtype=torch.bfloat16)
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON_CREATION):
        outputs = [replaced(inputs[:count]) for count in range(1, 201)]
    compiled = [line for line in capfd.readouterr().out.splitlines() if "create:cache_miss" in line]
    assert 0 < len(compiled) <= len({padded_rows(count) for count in range(LEAST_ROWS, 201)}) + LEAST_ROWS
    for output in outputs:
        torch.testing.assert_close(output, layer(inputs[: len(output)]))


def test_layers_that_are_more_than_a_matrix_are_kept_inside_and_plain_ones_keep_their_weights() -> None:
    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda *args: None)
    plain, norm, others = nn.Linear(4, 4), nn.LayerNorm(4), [Other(4, 4), hooked]
    replaced = nn.Sequential(nn.Sequential(plain), norm, *others)
    use_onednn(replaced)
    assert replaced[1] is norm
    assert [type(each) for each in replaced[2:]] == [PaddedLinear] * 2
    assert [each.layer for each in replaced[2:]] == others
    (layer,) = replaced[0]
    assert type(layer) is OneDnnLinear and layer.weight is plain.weight and layer.bias is plain.bias


def test_the_engine_uses_them_and_the_model_that_it_was_given_does_not(loaded, model) -> None:
    async def check() -> None:
        async with running(loaded) as engine:
            layers = [module for module in engine.worker.model.modules() if isinstance(module, nn.Linear)]
            assert {type(layer) for layer in layers} == {OneDnnLinear}

    asyncio.run(check())
    assert not any(isinstance(module, OneDnnLinear) for module in model.modules())
