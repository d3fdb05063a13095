"""A step of decoding in bfloat16 on a CPU is fast, equal to what it was, and leaves torch as it was."""

from collections.abc import Iterator
from threading import Barrier, Thread

import pytest
import torch
from helpers import tiny_model
from torch import nn

from owl2.modeling.one_row import fast_one_row_products

ROW, ROWS = torch.zeros(1, 1, 8, dtype=torch.bfloat16), torch.zeros(1, 2, 8, dtype=torch.bfloat16)


@pytest.fixture(autouse=True)
def _onednn_is_on_before_and_after() -> Iterator[None]:
    torch.backends.mkldnn.enabled = True
    yield
    assert torch.backends.mkldnn.enabled


@torch.no_grad()
@pytest.mark.parametrize("width", [4096, 11008])
def test_a_product_of_one_row_equals_that_in_double_precision(width: int) -> None:
    torch.manual_seed(0)
    layer, row = nn.Linear(width, 192, bias=False).bfloat16(), torch.randn(1, 1, width).bfloat16()
    with fast_one_row_products(row):
        product = layer(row).double()
    expected = row.double() @ layer.weight.double().T
    assert (product - expected).norm() < 1e-2 * expected.norm()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_only_steps_of_one_row_in_bfloat16_take_it(dtype: torch.dtype) -> None:
    model = tiny_model().to(dtype)
    states: dict[str, bool] = {}
    for name, module in (("decoder", model.model.language_model.layers[1].mlp.down_proj), ("head", model.lm_head)):
        module.register_forward_hook(lambda *_, name=name: states.update({name: torch.backends.mkldnn.enabled}))
    output = model(torch.tensor([[5, 6, 7]]), use_cache=True)
    assert states == {"decoder": True, "head": True}
    step = model(torch.tensor([[8]]), past_key_values=output.past_key_values)
    assert states == dict.fromkeys(states, dtype == torch.float32)
    whole = model(torch.tensor([[5, 6, 7, 8]])).logits[:, -1:]
    assert (step.logits - whole).norm() < (1e-2 if dtype == torch.bfloat16 else 1e-5) * whole.norm()


def test_an_error_leaves_onednn_on() -> None:
    with pytest.raises(ZeroDivisionError), fast_one_row_products(ROW):
        assert not torch.backends.mkldnn.enabled
        raise ZeroDivisionError


def test_threads_that_overlap_leave_onednn_on_at_the_end() -> None:
    both_inside, first_left = Barrier(2), Barrier(2)

    def first() -> None:
        with fast_one_row_products(ROW):
            both_inside.wait(10)
        first_left.wait(10)

    thread = Thread(target=first)
    thread.start()
    with fast_one_row_products(ROW):
        both_inside.wait(10)
        first_left.wait(10)
        assert not torch.backends.mkldnn.enabled, "the other left, and this one is inside"
    thread.join()


def test_who_turned_onednn_off_finds_it_off() -> None:
    torch.backends.mkldnn.enabled = False
    for rows in (ROW, ROWS):
        with fast_one_row_products(rows):
            assert not torch.backends.mkldnn.enabled
        assert not torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = True
