"""Random generators go on where they were."""

import json

import torch

from owl2.training.checkpoint.rng_state import rng_state, set_rng_state


def test_random_generators_go_on_where_they_were() -> None:
    import random

    import numpy as np

    state = json.loads(json.dumps(rng_state()))
    drawn = (random.gauss(0, 1), np.random.normal(), torch.randn(3).tolist())
    set_rng_state(state)
    assert (random.gauss(0, 1), np.random.normal(), torch.randn(3).tolist()) == drawn
