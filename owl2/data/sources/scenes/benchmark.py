"""Questions that measure a model: equally many of each template, their answers as equally frequent as possible.

The scenes are those of the splits `test` and `held_out`, with a seed of their own, so that no training sees them.
"""

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from .descriptions import caption
from .facts import FACTS, random_fact
from .programs import NoAnswerError, answer
from .records import scene_for
from .templates import REGION_TEMPLATES, TEMPLATES, SceneQuestion
from .world import (
    ATTRIBUTES,
    DIFFICULTIES,
    NUMBERS,
    SIZES,
    TEXTURES,
    WORDS,
    Difficulty,
    DifficultyName,
    Scene,
    Split,
    Thing,
    combinations,
    moved,
    random_scene,
    replaced,
    stays_in_cell,
)

SPLITS = ("test", "held_out", "counterfactual", "region", "text", "unrelated_image")
PER_TEMPLATE = 120
"""The number of questions of a template in a split; 60 pairs in `counterfactual`."""

_SEED = "scenes-benchmark"
_MOST_TRIES = 2000


class Item(NamedTuple):
    """A question of the benchmark.

    Attributes:
        text: The question; in `text` and `unrelated_image` the scene is described in words first.
        scene: The scene of the question; `None` for facts.
        other: A scene that has nothing to do with it.
        pair: The number that the two questions of a counterfactual share.
    """

    id: str
    template: str
    skill: str
    text: str
    answer: str
    scene: Scene | None
    other: Scene
    chance: float
    pair: int | None = None


@lru_cache(maxsize=len(SPLITS) * len(DIFFICULTIES))
def items(split: str, difficulty: DifficultyName) -> tuple[Item, ...]:
    """The questions of a split, always the same ones."""
    level = DIFFICULTIES[difficulty]
    generator = random.Random(f"{_SEED}-{difficulty}-{split}")
    if split == "counterfactual":
        return tuple(_counterfactuals(level, generator))
    if split == "unrelated_image":
        return items("text", difficulty)
    if split == "text":
        return (*_told(level, generator), *_facts(level, generator))
    names = REGION_TEMPLATES if split == "region" else level.templates
    return tuple(_about_scenes(names, level, "held_out" if split == "held_out" else "test", generator))


def _about_scenes(names: Sequence[str], level: Difficulty, split: Split, generator: random.Random) -> Iterator[Item]:
    for name in names:
        for number in range(PER_TEMPLATE):
            scene, question = _balanced(name, number, level, split, generator)
            other = random_scene(generator, level, split)
            yield _item(f"{name}-{number}", question, question.text, scene, other, level)


def _told(level: Difficulty, generator: random.Random) -> Iterator[Item]:
    """Questions after a description that answers them."""
    for name in level.templates:
        for number in range(PER_TEMPLATE):
            scene, question = _balanced(name, number, level, "test", generator)
            text = f"{caption(scene)} {question.text}"
            yield _item(f"{name}-{number}", question, text, scene, random_scene(generator, level, "test"), level)


def _facts(level: Difficulty, generator: random.Random) -> Iterator[Item]:
    for name in FACTS:
        for number in range(PER_TEMPLATE // 4):
            fact = random_fact(name, level, generator)
            other = random_scene(generator, level, "test")
            yield Item(f"{name}-{number}", name, "fact", fact.text, fact.answer, None, other, 1.0)


def _counterfactuals(level: Difficulty, generator: random.Random) -> Iterator[Item]:
    """Two scenes that differ in one attribute, place or text, and a question whose answer is not the same."""
    for name in level.templates:
        for number in range(PER_TEMPLATE // 2):
            scene, changed, question = _pair(name, number, level, generator)
            both = [(scene, question.answer), (changed, answer(question.program, changed))]
            for order, (shown, right) in enumerate(generator.sample(both, 2)):
                asked = question._replace(answer=right)
                item = _item(
                    f"{name}-{number}-{order}", asked, asked.text, shown, random_scene(generator, level, "test"), level
                )
                yield item._replace(pair=number)


def _pair(name: str, number: int, level: Difficulty, generator: random.Random) -> tuple[Scene, Scene, SceneQuestion]:
    for _ in range(_MOST_TRIES):
        scene, question = _balanced(name, number, level, "test", generator)
        changes = list(_changes(scene, level, generator))
        for changed in generator.sample(changes, len(changes)):
            try:
                if answer(question.program, changed) != question.answer:
                    return scene, changed, question
            except NoAnswerError:
                continue
    raise AssertionError(f"no change of {_MOST_TRIES} scenes changes the answer to a question of the template {name}")


def _changes(scene: Scene, level: Difficulty, generator: random.Random) -> Iterator[Scene]:
    """Scenes of training's combinations that differ from this one in one attribute or place, or in the sign's text."""
    known = combinations(level, held_out=False)
    for number, thing in enumerate(scene.things):
        values = {
            "size": SIZES,
            "color": [color for shape, color in known if shape == thing.shape],
            "texture": TEXTURES[: level.textures],
            "shape": [shape for shape, color in known if color == thing.color],
        }
        for name in ATTRIBUTES:
            for value in values[name]:
                changed = Thing(**{**thing._asdict(), name: value})
                if changed != thing and stays_in_cell(changed):
                    yield replaced(scene, number, changed)
        yield moved(generator, scene, number)
    if scene.sign is not None:
        texts = NUMBERS if scene.sign.kind == "number" else WORDS[: level.words]
        for text in texts:
            if text != scene.sign.text:
                yield scene._replace(sign=scene.sign._replace(text=text))


def _balanced(
    name: str, number: int, level: Difficulty, split: Split, generator: random.Random
) -> tuple[Scene, SceneQuestion]:
    """A scene and a question about it; the answers take turns with the number."""
    answers = TEMPLATES[name].answers(level)
    return scene_for(name, level, split, generator, answers[number % len(answers)] if answers else None)


def _item(name: str, question: SceneQuestion, text: str, scene: Scene, other: Scene, level: Difficulty) -> Item:
    template = TEMPLATES[question.template]
    return Item(
        name, question.template, template.skill, text, question.answer, scene, other, round(template.chance(level), 4)
    )
