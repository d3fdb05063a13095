"""Each request of a step attends to its own keys, as if it were alone."""

from types import SimpleNamespace

import pytest
import torch

from owl2.modeling.attention import eager_attention
from owl2.serving.engine.paged_attention import paged_attention


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    "lengths",
    [[(1, 7), (1, 1), (1, 30)], [(5, 5)], [(3, 9), (1, 4), (6, 6), (1, 2)]],
    ids=["new tokens", "a prompt", "pieces of prompts beside new tokens"],
)
def test_a_step_gives_what_each_request_gives_alone(lengths: list[tuple[int, int]], kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = (sum(each) for each in zip(*lengths, strict=True))
    query = torch.randn(1, 4, queries, 8, generator=generator)
    key, value = (torch.randn(1, kv_heads, keys, 8, generator=generator) for _ in range(2))
    starts = [torch.tensor([0, *each]).cumsum(0) for each in zip(*lengths, strict=True)]
    output, _ = paged_attention(None, query, key, value, None, 0.3, *starts, is_causal=True)

    module = SimpleNamespace(num_key_value_groups=4 // kv_heads, training=False)
    expected = []
    for (new, known), first, begin in zip(lengths, *(each.tolist() for each in starts), strict=False):
        own = slice(begin, begin + known)
        mask = torch.full((new, known), float("-inf")).triu(known - new + 1)
        one = eager_attention(module, query[:, :, first : first + new], key[:, :, own], value[:, :, own], mask, 0.3)
        expected.append(one[0])
    torch.testing.assert_close(output, torch.cat(expected, dim=1))
