"""The order of a source's records, by epoch and seed."""

from owl2.data.mixture import RecordOrder
from owl2.data.sampler import WeightedSource

ALL = WeightedSource("a", 40, 40, 1.0)
SOME = WeightedSource("b", 25, 10, 1.0)


def test_every_epoch_has_all_records_once_in_another_order() -> None:
    epochs = [list(RecordOrder(ALL, 0).records(epoch)) for epoch in range(5)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_with_more_records_than_are_used_every_epoch_has_the_same_ones() -> None:
    epochs = [set(RecordOrder(SOME, 0).records(epoch)) for epoch in range(5)]
    assert len(epochs[0]) == 10 and epochs == [epochs[0]] * 5
    assert epochs[0] <= set(range(25)) and epochs[0] != set(range(10))
    assert set(RecordOrder(SOME, 1).records()) != epochs[0]


def test_any_position_can_be_asked_for_in_any_sequence() -> None:
    order = RecordOrder(ALL, 3)
    straight = [[RecordOrder(ALL, 3).record(epoch, position) for position in range(40)] for epoch in range(3)]
    for epoch, position in ((2, 7), (0, 7), (1, 39), (2, 0), (0, 0)):
        assert order.record(epoch, position) == straight[epoch][position]


def test_seed_and_source_change_the_order() -> None:
    orders = {tuple(RecordOrder(ALL._replace(name=name), seed).records()) for name in "ab" for seed in (0, 1)}
    assert len(orders) == 4
