"""Questions about the world that need no picture: what its words mean, numbers, and what follows from two sentences."""

import random
from collections.abc import Callable
from typing import NamedTuple

from .descriptions import phrase, plural
from .programs import COUNTS
from .world import COLORS, SHAPES, SIZES, TEXTURES, Difficulty

_CORNERS = {"circle": "zero", "triangle": "three", "square": "four", "diamond": "four"}
_OPPOSITES = ("left", "right", "small", "large", "top", "bottom", "more", "fewer", "above", "below")  # pair after pair
_KINDS = {"color": COLORS, "shape": SHAPES, "size": SIZES, "texture": TEXTURES}


class SceneFact(NamedTuple):
    """A question and its answer."""

    template: str
    text: str
    answer: str


def random_fact(name: str, level: Difficulty, generator: random.Random) -> SceneFact:
    """A question of a template, about what scenes of a level hold."""
    return SceneFact(name, *FACTS[name](level, generator))


def _corners(level: Difficulty, generator: random.Random) -> tuple[str, str]:
    shape = generator.choice([name for name in _CORNERS if name in SHAPES[: level.shapes]])
    return f"How many corners does a {shape} have?", _CORNERS[shape]


def _kind(level: Difficulty, generator: random.Random) -> tuple[str, str]:
    kind = generator.choice(list(_KINDS))
    return f"Is {generator.choice(_KINDS[kind])} a color, a shape, a size or a texture?", kind


def _next(level: Difficulty, generator: random.Random) -> tuple[str, str]:
    number = generator.randrange(len(COUNTS) - 1)
    if generator.random() < 0.5:
        return f"Which number comes after {COUNTS[number]}?", COUNTS[number + 1]
    return f"Which number comes before {COUNTS[number + 1]}?", COUNTS[number]


def _greater(level: Difficulty, generator: random.Random) -> tuple[str, str]:
    first, second = generator.sample(range(len(COUNTS)), 2)
    return f"Is {COUNTS[first]} more than {COUNTS[second]}?", "yes" if first > second else "no"


def _opposite(level: Difficulty, generator: random.Random) -> tuple[str, str]:
    index = generator.randrange(len(_OPPOSITES))
    return f"What is the opposite of {_OPPOSITES[index]}?", _OPPOSITES[index ^ 1]


def _sum(level: Difficulty, generator: random.Random) -> tuple[str, str]:
    counts = generator.sample(range(2, len(COUNTS) // 2 + 1), 2)
    told = _told(counts, generator.sample(SHAPES[: level.shapes], 2))
    return f"{told} How many things are there?", COUNTS[sum(counts)]


def _more_told(level: Difficulty, generator: random.Random) -> tuple[str, str]:
    counts = generator.sample(range(2, len(COUNTS)), 2)
    shapes = generator.sample(SHAPES[: level.shapes], 2)
    first, second = map(plural, shapes)
    return f"{_told(counts, shapes)} Are there more {first} than {second}?", "yes" if counts[0] > counts[1] else "no"


def _chain(level: Difficulty, generator: random.Random) -> tuple[str, str]:
    shapes, colors = SHAPES[: level.shapes], COLORS[: level.colors]
    first, second, third = (
        phrase({"shape": shape, "color": color})
        for shape, color in zip(generator.sample(shapes, 3), generator.sample(colors, 3), strict=True)
    )
    words = generator.choice(("to the left of", "to the right of", "above", "below"))
    told = f"The {first} is {words} the {second}. The {second} is {words} the {third}."
    if generator.random() < 0.5:
        return f"{told} Is the {first} {words} the {third}?", "yes"
    return f"{told} Is the {third} {words} the {first}?", "no"


def _told(counts: list[int], shapes: list[str]) -> str:
    words = [f"{COUNTS[count]} {plural(shape)}" for count, shape in zip(counts, shapes, strict=True)]
    return f"There are {words[0]} and {words[1]}."


FACTS: dict[str, Callable[[Difficulty, random.Random], tuple[str, str]]] = {
    "fact_corners": _corners,
    "fact_kind": _kind,
    "fact_next": _next,
    "fact_greater": _greater,
    "fact_opposite": _opposite,
    "fact_sum": _sum,
    "fact_more": _more_told,
    "fact_chain": _chain,
}
"""Every template by name."""
