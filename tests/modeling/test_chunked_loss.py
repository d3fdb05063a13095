"""The loss without the logits of all positions."""

import pytest
import torch
from helpers import IMAGE, batch, sample, tiny_config, tiny_model
from torch import nn

from owl2.modeling import chunked_loss


@pytest.mark.parametrize("chunk", [97 * 100, 97 * 7, 1])
def test_it_has_the_loss_and_the_gradients_of_all_logits(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(chunked_loss, "CHUNK_LOGITS", chunk)
    config = tiny_config()
    model = tiny_model(config).train()
    inputs = batch([sample(config, [3, IMAGE, 5], 0), sample(config, [9], 1)])
    found = []
    for options in ({}, {"loss_only": True}):
        model.zero_grad()
        outputs = model(**inputs, num_items_in_batch=7, **options)
        outputs.loss.backward()
        found.append((outputs.loss, [parameter.grad.clone() for parameter in model.parameters()]))
    assert outputs.logits is None
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_memory_does_not_grow_with_positions_times_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "CHUNK_LOGITS", 64 * 500)
    head, largest = nn.Linear(8, 500, bias=False), 0

    def watch(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest += tensor.numel() * (tensor.shape[-1:] == (500,) and tensor.shape[0] != 8)
        return tensor

    states = torch.randn(1000, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(watch, lambda tensor: tensor):
        loss = chunked_loss.summed_next_token_loss(head, states, torch.randint(0, 500, (1000,)), 500)
    loss.backward()
    assert largest == 0 and states.grad is not None  # no logits are kept from the forward pass


def test_a_batch_of_nothing_has_no_loss_and_gradients_of_zero() -> None:
    config = tiny_config()
    model = tiny_model(config).train()
    ids = torch.zeros((1, 2), dtype=torch.long)
    loss = model(input_ids=ids, labels=torch.full_like(ids, -100), loss_only=True, use_cache=False).loss
    loss.backward()
    assert loss == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_it_needs_labels() -> None:
    with pytest.raises(ValueError, match="need labels"):
        tiny_model()(input_ids=torch.ones((1, 2), dtype=torch.long), loss_only=True)
