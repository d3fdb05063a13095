"""The contents of a scene, its difficulty, and how one is drawn at random."""

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "diamond", "moon")
COLORS = ("red", "blue", "green", "yellow", "purple", "orange", "cyan", "gray")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
WORDS = (
    *("cat", "sun", "bus", "key", "map", "owl", "pen", "hat"),
    *("egg", "fox", "jam", "cup", "ice", "toy", "dog", "zoo"),
)
NUMBERS = ("1", "2", "3", "4", "5", "6", "7", "8", "9")
ATTRIBUTES = ("size", "color", "texture", "shape")
"""The attributes, in the order in which English names them."""

Split = Literal["train", "test", "held_out"]
Kind = Literal["caption", "vqa", "region", "dialogue", "text"]
"""The five kinds of training data of the paper (section 3.2)."""

DifficultyName = Literal["simple", "easy", "medium", "hard"]

RADII = {"small": 0.08, "large": 0.135}
"""Half the side of a thing's box, as a share of the image's side."""

SIGN_SIZE = (0.29, 0.19)
"""Width and height of a sign, as shares of the image's side."""

GRID = 3  # cells a side; one thing at most in each, so that nothing overlaps
_PAD = 0.006  # between a thing and the edge of its cell


class Thing(NamedTuple):
    """A coloured thing; (x, y) is its centre from the top left corner, as shares of the image's side."""

    size: str
    color: str
    texture: str
    shape: str
    x: float
    y: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge, with the two decimals that are written."""
        radius = RADII[self.size]
        return tuple(  # type: ignore[return-value]
            round(value, 2) for value in (self.x - radius, self.y - radius, self.x + radius, self.y + radius)
        )


class Sign(NamedTuple):
    """A white sign with a word or a number on it; (x, y) is its centre."""

    text: str
    x: float
    y: float

    @property
    def kind(self) -> str:
        return "number" if self.text.isdigit() else "word"


class Scene(NamedTuple):
    """Things and perhaps a sign on a background.

    Attributes:
        background: Red, green and blue, 0 to 255.
    """

    things: tuple[Thing, ...]
    sign: Sign | None
    background: tuple[int, int, int]

    def to_dict(self) -> dict[str, Any]:
        """The scene as plain values for JSON."""
        return {
            "things": [thing._asdict() for thing in self.things],
            "sign": self.sign._asdict() if self.sign else None,
            "background": list(self.background),
        }


class Difficulty(NamedTuple):
    """How hard a scene is.

    Attributes:
        things: Smallest and largest number of things, not counting signs; with a sign, a cell of the grid stays empty.
        shapes, colors, textures, words: The number of each.
        similarity: Share of things that take the shape or the colour of an earlier one, which makes counts larger
            than one, and a thing hard to tell from its neighbours.
        signs: Share of scenes with a sign.
        templates: The questions that are asked; those about regions belong to every level.
    """

    things: tuple[int, int]
    shapes: int
    colors: int
    textures: int
    words: int
    similarity: float
    signs: float
    templates: tuple[str, ...]


_SIMPLE = ("color", "shape", "size", "count_color", "exists", "relation", "edge_color")
_EASY = ("color", "shape", "size", "count_color", "count_shape", "more", "exists", "relation", "edge_color", "number")
_MEDIUM = (*_EASY, "texture", "edge_shape", "same_color", "same_shape", "word", "says")

DIFFICULTIES: dict[DifficultyName, Difficulty] = {
    "simple": Difficulty((1, 3), 4, 4, 1, 8, 0.4, 0.0, _SIMPLE),
    "easy": Difficulty((2, 4), 4, 4, 1, 8, 0.4, 0.4, _EASY),
    "medium": Difficulty((3, 5), 4, 8, 3, 8, 0.5, 0.5, _MEDIUM),
    "hard": Difficulty((4, 7), 8, 8, 3, 16, 0.6, 0.7, (*_MEDIUM, "count_both")),
}


def is_held_out(shape: str, color: str) -> bool:
    """Whether training never shows this combination, as in CLEVR's CoGenT.

    A quarter of the combinations is held out, at every level of difficulty equally many of each shape and of each
    colour, so that neither says anything about the other but what it cannot be.
    """
    return (SHAPES.index(shape) + COLORS.index(color)) % 4 == 0


@lru_cache
def combinations(level: Difficulty, held_out: bool) -> tuple[tuple[str, str], ...]:
    """The combinations of shape and colour that a level shows in training, or those that it never shows there."""
    shapes, colors = SHAPES[: level.shapes], COLORS[: level.colors]
    return tuple((shape, color) for shape in shapes for color in colors if is_held_out(shape, color) == held_out)


def random_scene(generator: random.Random, level: Difficulty, split: Split) -> Scene:
    """A scene of a level. All things of a `held_out` scene are combinations that training never shows.

    Whatever the generator, a scene is as likely as the same scene with other colours, or other shapes, in their place;
    so no question that asks for one of them has a likely answer.
    """
    choices = combinations(level, split == "held_out")
    count = generator.randint(*level.things)
    cells = generator.sample(range(GRID * GRID), count + 1)
    things: list[Thing] = []
    for number in range(count):
        shape, color = _combination(generator, choices, things, level.similarity)
        size = generator.choice(SIZES)
        x, y = _place(generator, cells[number], RADII[size], RADII[size])
        things.append(Thing(size, color, generator.choice(TEXTURES[: level.textures]), shape, x, y))
    sign = None
    if generator.random() < level.signs:
        texts = NUMBERS if generator.random() < 0.5 else WORDS[: level.words]
        sign = Sign(generator.choice(texts), *_place(generator, cells[count], SIGN_SIZE[0] / 2, SIGN_SIZE[1] / 2))
    shade = generator.randrange(232, 250)
    background = tuple(shade + generator.randrange(-6, 7) for _ in range(3))
    return Scene(tuple(things), sign, background)  # type: ignore[arg-type]


def cell_of(x: float, y: float) -> tuple[int, int]:
    """Column and row of a place in the grid."""
    return int(x * GRID), int(y * GRID)


def stays_in_cell(thing: Thing) -> bool:
    """Whether the thing is small enough for its place."""
    return all(abs(place * GRID % 1 - 0.5) / GRID <= 1 / GRID / 2 - RADII[thing.size] for place in (thing.x, thing.y))


def moved(generator: random.Random, scene: Scene, number: int) -> Scene:
    """The scene with one of its things in another cell, which was empty."""
    items: list[Thing | Sign] = [*scene.things, *([scene.sign] if scene.sign else [])]
    taken = {cell_of(item.x, item.y) for item in items}
    free = [cell for cell in range(GRID * GRID) if (cell % GRID, cell // GRID) not in taken]
    thing = scene.things[number]
    x, y = _place(generator, generator.choice(free), RADII[thing.size], RADII[thing.size])
    return replaced(scene, number, thing._replace(x=x, y=y))


def replaced(scene: Scene, number: int, thing: Thing) -> Scene:
    """The scene with another thing in the place of one."""
    return scene._replace(things=(*scene.things[:number], thing, *scene.things[number + 1 :]))


def _combination(
    generator: random.Random, choices: Sequence[tuple[str, str]], things: list[Thing], similarity: float
) -> tuple[str, str]:
    if things and generator.random() < similarity:
        other = generator.choice(things)
        takes_shape = generator.random() < 0.5
        choices = [pair for pair in choices if pair[0] == other.shape or not takes_shape]
        choices = [pair for pair in choices if pair[1] == other.color or takes_shape]
    return generator.choice(choices)


def _place(generator: random.Random, cell: int, half_width: float, half_height: float) -> tuple[float, float]:
    """A centre in a cell at which a box of this size does not leave it."""
    column, row = cell % GRID, cell // GRID
    slack = [1 / GRID / 2 - half - _PAD for half in (half_width, half_height)]
    x = (column + 0.5) / GRID + generator.uniform(-slack[0], slack[0])
    y = (row + 0.5) / GRID + generator.uniform(-slack[1], slack[1])
    return round(x, 3), round(y, 3)
