"""What comes next: shares, epochs, seeds, states, global batches."""

import json
from collections import Counter
from itertools import islice

import pytest

from owl2.data.mixture import Draw, MixtureSampler, RecordSize, Source, global_batches, share_of_rank
from owl2.data.sources.mixture_sizes import TABLE_8

SOURCES = [Source("a", 40, 40, 3.0), Source("b", 25, 10, 1.5), Source("c", 7, 7, 0.5)]


def draws(count: int, sources: list[Source] = SOURCES, seed: int = 0) -> list[Draw]:
    return list(islice(MixtureSampler(sources, seed), count))


def test_every_source_has_its_share_at_every_time() -> None:
    drawn: Counter[str] = Counter()
    for turn, draw in enumerate(islice(MixtureSampler(SOURCES), 2000), start=1):
        drawn[draw.source] += 1
        for source in SOURCES:
            assert abs(drawn[source.name] - turn * source.weight / 5.0) < 1.5


def test_batches_of_the_papers_mixture_have_the_proportions_of_table_8() -> None:
    sources = [Source(row.source, row.size, row.size, row.size) for row in TABLE_8]
    sampler = MixtureSampler(sources)
    for _ in range(8):
        found = Counter(draw.source for draw in islice(sampler, 256))
        for row in TABLE_8:
            assert abs(found[row.source] - 256 * row.size / 1_230_000) < 2


def test_every_epoch_of_a_source_has_all_its_records_once_in_another_order() -> None:
    of_a = [draw for draw in draws(400) if draw.source == "a"]
    epochs = [[draw.record for draw in of_a if draw.epoch == epoch] for epoch in range(5)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert [draw.epoch for draw in of_a] == sorted(draw.epoch for draw in of_a)


def test_a_source_with_more_records_than_are_used_has_the_same_ones_in_every_epoch() -> None:
    of_b = [draw for draw in draws(400) if draw.source == "b"]
    epochs = [{draw.record for draw in of_b if draw.epoch == epoch} for epoch in range(5)]
    assert len(epochs[0]) == 10 and epochs == [epochs[0]] * 5
    assert epochs[0] <= set(range(25)) and epochs[0] != set(range(10))
    other = {draw.record for draw in draws(400, seed=1) if draw.source == "b"}
    assert other != epochs[0]


def test_another_seed_gives_another_order_of_the_same_shares() -> None:
    one, other = draws(100), draws(100, seed=1)
    assert one != other and [draw.source for draw in one] == [draw.source for draw in other]


def test_the_order_does_not_depend_on_the_order_of_the_sources() -> None:
    assert draws(300) == draws(300, SOURCES[::-1])


@pytest.mark.parametrize("before", [0, 1, 77, 500])
def test_a_stream_goes_on_from_its_state_as_if_it_had_not_stopped(before) -> None:
    sampler = MixtureSampler(SOURCES, seed=3)
    list(islice(sampler, before))
    state = json.loads(json.dumps(sampler.state_dict(), sort_keys=True))
    expected = list(islice(sampler, 200))
    resumed = MixtureSampler(SOURCES, seed=3)
    resumed.load_state_dict(state)
    assert list(islice(resumed, 200)) == expected == draws(before + 200, seed=3)[before:]


def test_the_state_is_the_epoch_and_the_position_in_each_source() -> None:
    sampler = MixtureSampler(SOURCES)
    drawn = Counter(draw.source for draw in islice(sampler, 100))
    for source in SOURCES:
        state = sampler.state_dict()["sources"][source.name]
        assert (state["epoch"], state["position"]) == divmod(drawn[source.name], source.used)


def test_the_state_of_another_mixture_is_refused_with_the_difference() -> None:
    state = MixtureSampler(SOURCES).state_dict()
    with pytest.raises(ValueError, match="saved with seed 0, this mixture has seed 1"):
        MixtureSampler(SOURCES, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="c: saved .*'found': 7.* now None"):
        MixtureSampler(SOURCES[:2]).load_state_dict(state)
    with pytest.raises(ValueError, match="c: saved .*'found': 7.* now .*'found': 8"):
        MixtureSampler([*SOURCES[:2], Source("c", 8, 7, 0.5)]).load_state_dict(state)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "at least one source"),
        ([Source("a", 2, 2, 1)] * 2, "two sources of a mixture have one name"),
        ([Source("a", 0, 0, 1)], "a: 0 records used of 0"),
        ([Source("a", 2, 3, 1)], "a: 3 records used of 2"),
        ([Source("a", 2, 2, 0)], "a: weight 0 is not"),
        ([Source("a", 2, 2, float("nan"))], "a: weight nan is not"),
    ],
)
def test_mixtures_that_cannot_be_drawn_from_are_refused(sources, message) -> None:
    with pytest.raises(ValueError, match=message):
        MixtureSampler(sources)


def size_of(draw: Draw) -> RecordSize:
    """Source a has an image each, b is text, c is of both kinds; lengths differ by up to 40."""
    has_image = draw.source == "a" or (draw.source == "c" and draw.record % 2 == 0)
    return RecordSize(100 * (1 + draw.record), int(has_image), 0)


def batches(count: int, size: int = 32) -> list[list[Draw]]:
    return list(islice(global_batches(MixtureSampler(SOURCES), size, size_of), count))


def test_batches_hold_the_stream_in_its_order_of_batches() -> None:
    stream = draws(320)
    for index, batch in enumerate(batches(10)):
        assert sorted(batch) == sorted(stream[32 * index : 32 * index + 32])


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_every_number_of_ranks_learns_from_the_same_batches(ranks) -> None:
    for batch in batches(5):
        shares = [share_of_rank(batch, rank, ranks) for rank in range(ranks)]
        assert {len(share) for share in shares} == {32 // ranks}
        assert sorted(sum(shares, [])) == sorted(batch)


def test_ranks_have_the_same_modality_and_like_lengths_at_a_time() -> None:
    """With micro-batches of 2 on 4 ranks, compared with shares of the stream as it comes."""

    def wasted(shares: list[list[Draw]]) -> float:
        """Share of the time in which ranks wait for the slowest, with work in proportion to tokens."""
        works = [
            [sum(size_of(draw).tokens for draw in share[at : at + 2]) for share in shares] for at in range(0, 8, 2)
        ]
        return 1 - sum(sum(work) for work in works) / (4 * sum(max(work) for work in works))

    stream = draws(320)
    unsorted = []
    grouped = []
    for index, batch in enumerate(batches(10)):
        shares = [share_of_rank(batch, rank, 4) for rank in range(4)]
        grouped.append(wasted(shares))
        unsorted.append(wasted([stream[32 * index : 32 * index + 32][rank::4] for rank in range(4)]))
        images = [sum(size_of(draw).images for draw in share) for share in shares]
        assert max(images) - min(images) <= 1
    assert sum(grouped) < 0.25 * sum(unsorted)


def test_batches_go_on_from_a_state_on_another_number_of_ranks() -> None:
    sampler = MixtureSampler(SOURCES)
    list(islice(global_batches(sampler, 32, size_of), 7))
    resumed = MixtureSampler(SOURCES)
    resumed.load_state_dict(sampler.state_dict())
    assert list(islice(global_batches(resumed, 32, size_of), 3)) == batches(10)[7:]


@pytest.mark.parametrize(("rank", "ranks"), [(0, 3), (4, 4), (-1, 4)])
def test_shares_that_cannot_be_equal_are_refused(rank, ranks) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} of {ranks} ranks .* batch of 32"):
        share_of_rank(batches(1)[0], rank, ranks)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        next(global_batches(MixtureSampler(SOURCES), 0, size_of))
