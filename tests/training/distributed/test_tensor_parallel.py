"""Layers that tensor ranks share."""

import pytest
from helpers import tiny_config, tiny_model

from owl2.training.distributed.tensor_parallel import split_over_tensor_ranks


def test_heads_that_tensor_ranks_cannot_share_are_refused() -> None:
    class Ranks:
        @staticmethod
        def size() -> int:
            return 2

    with pytest.raises(ValueError, match="num_key_value_heads 1 is not a multiple of 2"):
        split_over_tensor_ranks(tiny_model(tiny_config(num_key_value_heads=1)), Ranks())
