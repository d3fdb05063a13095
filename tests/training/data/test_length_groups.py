"""Draws are exchanged within a window of batches: none is lost, like ones meet, and it resumes anywhere."""

import pytest

from owl2.data.sampler import Draw, WeightedSampler, WeightedSource
from owl2.training.data.length_groups import WINDOW, LengthGroups

COUNT = 5


def sampler() -> WeightedSampler:
    return WeightedSampler([WeightedSource("talk", 300, 300, 2.0), WeightedSource("text", 90, 90, 1.0)], seed=3)


def work(draw: Draw) -> tuple[bool, float]:
    """Text has no images; lengths are scattered over the positions."""
    return draw.source == "talk", (draw.position * 37) % 101


def test_a_batch_is_a_piece_of_the_sorted_draws_of_its_window():
    groups, plain = LengthGroups(sampler(), work), sampler()
    orders = set()
    for _ in range(3):
        drawn = sorted(plain.draw(WINDOW * COUNT), key=work)
        pieces = [drawn[start : start + COUNT] for start in range(0, len(drawn), COUNT)]
        batches = [groups.draw(COUNT) for _ in range(WINDOW)]
        assert sorted(batches, key=pieces.index) == pieces
        orders.add(tuple(map(pieces.index, batches)))
    assert len(orders) == 3 and tuple(range(WINDOW)) not in orders  # each window in a random order of its own


@pytest.mark.parametrize("given", [0, 1, WINDOW - 1, WINDOW, WINDOW + 3])
def test_it_resumes_after_any_number_of_batches(given):
    first, second = LengthGroups(sampler(), work), LengthGroups(sampler(), work)
    for _ in range(given):
        first.draw(COUNT)
    second.load_state_dict(first.state_dict())
    assert [second.draw(COUNT) for _ in range(2 * WINDOW)] == [first.draw(COUNT) for _ in range(2 * WINDOW)]
