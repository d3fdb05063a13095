"""A random order that is computed."""

from collections import Counter
from itertools import pairwise, permutations

import pytest

from owl2.data.mixture.permutation import Permutation


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_every_number_comes_once(size: int) -> None:
    order = Permutation(size, "key")
    assert sorted(order[place] for place in range(size)) == list(range(size))


def test_all_orders_of_few_numbers_are_about_as_frequent() -> None:
    orders = Counter(tuple(Permutation(4, f"key {key}")[place] for place in range(4)) for key in range(4800))
    assert set(orders) == set(permutations(range(4)))
    squares = sum((count - 200) ** 2 / 200 for count in orders.values())
    assert squares < 52  # chi-square, 23 degrees of freedom: p = 0.0005


def test_an_order_of_many_has_no_trend() -> None:
    size = 20_000
    order = Permutation(size, "key")
    numbers = [order[place] for place in range(size)]
    rising = sum(one < other for one, other in pairwise(numbers))
    assert abs(rising - size / 2) < 4 * (size / 12) ** 0.5  # standard deviation of the number of ascents
    in_first_half = sum(number < size // 2 for number in numbers[: size // 2])
    assert abs(in_first_half - size / 4) < 4 * (size / 16) ** 0.5


def test_another_key_gives_another_order_and_the_same_key_the_same() -> None:
    orders = [[Permutation(50, key)[place] for place in range(50)] for key in ("a", "b", "a")]
    assert orders[0] == orders[2] != orders[1]


def test_orders_stay_the_same_in_later_versions() -> None:
    """A run that is resumed with another version of owl2 must go on in the same order."""
    order = Permutation(10, "0-vqav2-0")
    assert [order[place] for place in range(10)] == [2, 9, 6, 3, 5, 8, 7, 1, 0, 4]


def test_places_outside_are_refused() -> None:
    with pytest.raises(IndexError, match="place 3 in an order of 3"):
        Permutation(3, "key")[3]
    with pytest.raises(ValueError, match="0 numbers"):
        Permutation(0, "key")
