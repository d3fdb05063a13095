"""Broken samples are counted, and a source of too many is refused."""

import json

import pytest

from owl2.data.skipped import Fault, Skip, SkipCounter, SkipLimit


def skips(count: int, source: str = "bad") -> list[Skip]:
    return [Skip(source, Fault.MISSING_IMAGE, f"{source} {number}") for number in range(count)]


def test_a_source_with_too_many_broken_pairs_is_refused_with_counts() -> None:
    counter = SkipCounter(SkipLimit(0.2, 10))
    counter.add(["good"] * 100 + ["bad"] * 40, skips(10))
    with pytest.raises(ValueError, match=r"11 of 51 .* of the source 'bad' .* more than 20.0% \(image missing: 11\)"):
        counter.add([], skips(1))


def test_a_few_broken_pairs_at_the_start_refuse_nothing() -> None:
    SkipCounter(SkipLimit(0.2, 1000)).add([], skips(999))


def test_counts_continue_from_a_state() -> None:
    counter = SkipCounter(SkipLimit())
    counter.add(["bad", "good"], skips(3))
    resumed = SkipCounter(SkipLimit())
    resumed.load_state_dict(json.loads(json.dumps(counter.state_dict())))
    resumed.add(["good"], skips(1))
    assert resumed.state_dict() == {"read": {"bad": 1, "good": 2}, "skipped": {"bad": {"image missing": 4}}}
