"""Clipping against torch's own."""

import torch
from helpers import tiny_model

from owl2.training.distributed.gradient_clipping import clip_gradients


def test_clipping_agrees_with_torch() -> None:
    ours, theirs = tiny_model(), tiny_model()
    generator = torch.Generator().manual_seed(0)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        one.grad = torch.randn(one.shape, generator=generator)
        other.grad = one.grad.clone()
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    torch.testing.assert_close(clip_gradients(list(ours.parameters()), 1.0), expected)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
