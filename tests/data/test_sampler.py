"""What comes next: shares, epochs, states."""

import json
from collections import Counter

import pytest

from owl2.data.sampler import Draw, WeightedSampler, WeightedSource
from owl2.data.sources.mixture_sizes import TABLE_8

SOURCES = [WeightedSource("a", 40, 40, 3.0), WeightedSource("b", 25, 10, 1.5), WeightedSource("c", 7, 7, 0.5)]


def draws(count: int, sources: list[WeightedSource] = SOURCES, seed: int = 0) -> list[Draw]:
    return WeightedSampler(sources, seed).draw(count)


def test_every_source_has_its_share_at_every_time() -> None:
    drawn: Counter[str] = Counter()
    for turn, draw in enumerate(WeightedSampler(SOURCES, 0).draw(2000), start=1):
        drawn[draw.source] += 1
        for source in SOURCES:
            assert abs(drawn[source.name] - turn * source.weight / 5.0) < 1.5


def test_batches_of_the_papers_mixture_have_the_proportions_of_table_8() -> None:
    sources = [WeightedSource(row.source, row.size, row.size, row.size) for row in TABLE_8]
    sampler = WeightedSampler(sources, 0)
    for _ in range(8):
        found = Counter(draw.source for draw in sampler.draw(256))
        for row in TABLE_8:
            assert abs(found[row.source] - 256 * row.size / 1_230_000) < 2


def test_a_source_goes_through_its_epochs_position_by_position() -> None:
    for source in SOURCES:
        of_source = [(draw.epoch, draw.position) for draw in draws(400) if draw.source == source.name]
        assert of_source == [divmod(count, source.used) for count in range(len(of_source))] and of_source[-1][0] >= 2


def test_the_order_does_not_depend_on_the_order_of_the_sources() -> None:
    assert draws(300) == draws(300, SOURCES[::-1])


@pytest.mark.parametrize("before", [0, 1, 77, 500])
def test_a_stream_goes_on_from_its_state_as_if_it_had_not_stopped(before) -> None:
    sampler = WeightedSampler(SOURCES, seed=3)
    sampler.draw(before)
    state = json.loads(json.dumps(sampler.state_dict(), sort_keys=True))
    expected = sampler.draw(200)
    resumed = WeightedSampler(SOURCES, seed=3)
    resumed.load_state_dict(state)
    assert resumed.draw(200) == expected == draws(before + 200, seed=3)[before:]


def test_the_state_is_the_epoch_and_the_position_in_each_source() -> None:
    sampler = WeightedSampler(SOURCES, 0)
    drawn = Counter(draw.source for draw in sampler.draw(100))
    for source in SOURCES:
        state = sampler.state_dict()["sources"][source.name]
        assert (state["epoch"], state["position"]) == divmod(drawn[source.name], source.used)


def test_the_state_of_other_sources_is_refused_with_the_difference() -> None:
    state = WeightedSampler(SOURCES, 0).state_dict()
    with pytest.raises(ValueError, match="saved with seed 0, but the seed is now 1"):
        WeightedSampler(SOURCES, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="c: saved .*'found': 7.* now None"):
        WeightedSampler(SOURCES[:2], 0).load_state_dict(state)
    with pytest.raises(ValueError, match="c: saved .*'found': 7.* now .*'found': 8"):
        WeightedSampler([*SOURCES[:2], WeightedSource("c", 8, 7, 0.5)], 0).load_state_dict(state)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "no sources"),
        ([WeightedSource("a", 2, 2, 1)] * 2, "unique names"),
        ([WeightedSource("a", 0, 0, 1)], "a: cannot use 0 of 0"),
        ([WeightedSource("a", 2, 3, 1)], "a: cannot use 3 of 2"),
        ([WeightedSource("a", 2, 2, 0)], "a: weight 0 is not"),
        ([WeightedSource("a", 2, 2, float("nan"))], "a: weight nan is not"),
    ],
)
def test_sources_that_cannot_be_drawn_from_are_refused(sources, message) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedSampler(sources, 0)
