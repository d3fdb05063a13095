"""The order of pairs is a formula."""

import numpy as np
import pytest

from owl2.data.pairs import WindowOrder
from owl2.data.pairs.window_order import _mixed, permutation, random_bits

GROUPS = [7, 0, 30, 1, 12]


def order(seed: int = 0, name: str = "cc3m", window: int = 16) -> WindowOrder:
    return WindowOrder(GROUPS, seed, name, window)


def epoch_of(source: WindowOrder, epoch: int) -> list[tuple[int, int]]:
    return [tuple(source.place(epoch, position)) for position in range(source.size)]


def test_every_pair_comes_once_an_epoch_and_epochs_differ() -> None:
    everything = {(group, index) for group, size in enumerate(GROUPS) for index in range(size)}
    first, second = epoch_of(order(), 0), epoch_of(order(), 1)
    assert len(first) == 50 and set(first) == set(second) == everything
    assert first != second


def test_shards_and_windows_are_both_shuffled_anew_each_epoch() -> None:
    shards = WindowOrder([1] * 40, 0, "cc3m", window=1)  # a window of one leaves the order of the shards
    assert epoch_of(shards, 0) != epoch_of(shards, 1)
    windows = WindowOrder([64], 0, "cc3m", window=16)  # a single shard leaves the order in the windows
    offsets = [
        tuple(number % 16 for _, number in epoch_of(windows, epoch)[start : start + 16])
        for epoch in (0, 1)
        for start in range(0, 64, 16)
    ]
    assert len(set(offsets)) == 8


def test_any_position_can_be_asked_for_in_any_sequence() -> None:
    first = epoch_of(order(), 3)
    source = order()
    shuffled = np.random.default_rng(0).permutation(50).tolist()
    assert all(tuple(source.place(3, position)) == first[position] for position in shuffled)


def test_seed_and_source_change_the_order() -> None:
    assert len({tuple(epoch_of(order(seed, name), 0)) for seed in (0, 1) for name in ("cc3m", "coyo")}) == 4


def test_pairs_of_a_shard_are_read_near_each_other() -> None:
    source = WindowOrder([10] * 100, 0, "laion", window=40)
    groups = [place[0] for place in epoch_of(source, 0)]
    assert all(len(set(groups[start : start + 40])) <= 5 for start in range(0, 1000, 40))
    assert len(set(groups[:40])) >= 4, "but shuffled among several shards"


def test_a_substitute_is_another_pair_of_the_same_window() -> None:
    source = order()
    window = {tuple(source.place(0, position)) for position in range(16)}
    substitutes = [tuple(source.substitute(0, 5, attempt)) for attempt in range(200)]
    assert set(substitutes) <= window and len(set(substitutes)) > 10


def test_the_random_numbers_never_change() -> None:
    # First outputs of splitmix64 for state 0, as published with the algorithm: 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4.
    state, expected = 0, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % 2**64
        expected.append(mixed ^ (mixed >> 31))
    assert expected[:2] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert _mixed(np.arange(1, 4, dtype=np.uint64)).tolist() == expected
    assert permutation(8, "a key").tolist() == [0, 6, 1, 5, 2, 7, 3, 4]  # written down when it was made
    assert random_bits(0, 6, 0).tolist() == random_bits(0, 3, 0).tolist() + random_bits(3, 3, 0).tolist()


def test_a_source_without_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        WindowOrder([0, 0], 0, "empty")
