"""Question templates: the questions of each that a scene allows, and one of them by its answer.

The words of a question say nothing about its answer. What asks for a colour, a shape, a text or a place is fair because
scenes are (`random_scene`); what is answered by yes or no is asked for an answer that was drawn first; and templates
whose answers some scenes do not allow (`needs_scene`) are asked for an answer that was drawn first, of a scene that is
drawn again until it allows that (`records`).
"""

import random
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import NamedTuple

from owl2.data.sources.regions import Region, box_question, box_text, phrase_question

from .descriptions import article, phrase, plural, reference
from .programs import COUNTS, DIRECTIONS, NoAnswerError, Program, answer
from .world import COLORS, NUMBERS, SHAPES, SIZES, TEXTURES, WORDS, Difficulty, Scene, combinations

YES_NO = ("yes", "no")
MOST_COUNTED = 3
CHANCE_OF_A_BOX = 0.12
"""The share of boxes that the best constant box meets with an IoU of one half; the tests measure it."""

Candidates = Iterator[tuple[str, Program]]


class SceneQuestion(NamedTuple):
    """A question of a scene, and its answer by its program."""

    template: str
    text: str
    answer: str
    program: Program


class Template(NamedTuple):
    """A form of questions.

    Attributes:
        skill: Attribute, count, compare, relation, existence, ocr or region.
        candidates: Texts and programs of the questions that a scene allows, in random order.
        answers: Answers that are asked for in equal shares; `None` where there are too many, such as boxes.
        chance: The accuracy of a guess that knows only the question, at a level of difficulty.
        needs_scene: Whether some scenes have no question for some answer.
    """

    skill: str
    candidates: Callable[[Scene, Difficulty, random.Random], Candidates]
    answers: Callable[[Difficulty], tuple[str, ...] | None]
    chance: Callable[[Difficulty], float]
    needs_scene: bool = False


def ask(
    name: str, scene: Scene, level: Difficulty, generator: random.Random, wanted: str | None
) -> SceneQuestion | None:
    """A question of a template that has the wanted answer (`None`: any); `None` if the scene allows none."""
    for text, program in TEMPLATES[name].candidates(scene, level, generator):
        try:
            found = answer(program, scene)
        except NoAnswerError:
            continue
        if wanted is None or found == wanted:
            return SceneQuestion(name, text, found, program)
    return None


def draw_answer(name: str, level: Difficulty, generator: random.Random) -> str | None:
    """The answer to ask for: drawn where the scene alone would not make answers equally frequent."""
    template = TEMPLATES[name]
    answers = template.answers(level)
    return generator.choice(answers) if answers and (answers == YES_NO or template.needs_scene) else None


def _attribute(name: str) -> Callable[[Scene, Difficulty, random.Random], Candidates]:
    def candidates(scene: Scene, level: Difficulty, generator: random.Random) -> Candidates:
        for thing in generator.sample(scene.things, len(scene.things)):
            if wanted := reference(scene, thing, without=name):
                yield f"What {name} is the {phrase(wanted)}?", ["query", name, ["unique", _filter(wanted)]]

    return candidates


def _count(*names: str) -> Callable[[Scene, Difficulty, random.Random], Candidates]:
    def candidates(scene: Scene, level: Difficulty, generator: random.Random) -> Candidates:
        shown = [dict(zip(("shape", "color"), pair, strict=True)) for pair in _combinations(scene, level)]
        every = list({tuple(pair[name] for name in names) for pair in shown})
        for values in generator.sample(sorted(every), len(every)):
            wanted = dict(zip(names, values, strict=True))
            yield f"How many {plural(phrase(wanted))} are there?", ["count", _filter(wanted)]

    return candidates


def _more(scene: Scene, level: Difficulty, generator: random.Random) -> Candidates:
    counts = {color: sum(thing.color == color for thing in scene.things) for color in COLORS[: level.colors]}
    pairs = [pair for pair in permutations(counts, 2) if counts[pair[0]] != counts[pair[1]]]
    for first, second in generator.sample(pairs, len(pairs)):
        sets = [_filter({"color": first}), _filter({"color": second})]
        yield f"Are there more {first} things than {second} things?", ["more", *sets]


def _same(name: str) -> Callable[[Scene, Difficulty, random.Random], Candidates]:
    def candidates(scene: Scene, level: Difficulty, generator: random.Random) -> Candidates:
        named = [wanted for thing in scene.things if (wanted := reference(scene, thing, without=name))]
        pairs = list(permutations(named, 2))
        for pair in generator.sample(pairs, len(pairs)):
            if _names_alike(*pair):
                things = [["unique", _filter(wanted)] for wanted in pair]
                text = f"Are the {phrase(pair[0])} and the {phrase(pair[1])} of the same {name}?"
                yield text, ["same", name, *things]

    return candidates


def _names_alike(first: dict[str, str], second: dict[str, str]) -> bool:
    """Two names with the same attributes: one that is in a single name would tell that the things differ in it."""
    return first.keys() == second.keys()


def _exists(scene: Scene, level: Difficulty, generator: random.Random) -> Candidates:
    pairs = _combinations(scene, level)
    present = {(thing.shape, thing.color) for thing in scene.things}
    shapes, colors = {shape for shape, _ in present}, {color for _, color in present}
    shuffled = generator.sample(pairs, len(pairs))
    for shape, color in sorted(shuffled, key=lambda pair: pair[0] not in shapes and pair[1] not in colors):
        words = phrase({"shape": shape, "color": color})
        yield f"Is there {article(words)}?", ["exist", _filter({"shape": shape, "color": color})]


_BESIDE = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
_EDGE = {"left": "leftmost", "right": "rightmost", "above": "topmost", "below": "lowest"}


def _relation(scene: Scene, level: Difficulty, generator: random.Random) -> Candidates:
    named = [wanted for thing in scene.things if (wanted := reference(scene, thing))]
    triples = [(*pair, direction) for pair in permutations(named, 2) for direction in DIRECTIONS]
    for first, second, direction in generator.sample(triples, len(triples)):
        program = ["is_beside", direction, ["unique", _filter(first)], ["unique", _filter(second)]]
        yield f"Is the {phrase(first)} {_BESIDE[direction]} the {phrase(second)}?", program


def _edge(name: str) -> Callable[[Scene, Difficulty, random.Random], Candidates]:
    def candidates(scene: Scene, level: Difficulty, generator: random.Random) -> Candidates:
        for direction in generator.sample(list(_EDGE), len(_EDGE)):
            yield f"What {name} is the {_EDGE[direction]} thing?", ["query", name, ["edge", direction, ["scene"]]]

    return candidates


def _written(kind: str) -> Callable[[Scene, Difficulty, random.Random], Candidates]:
    def candidates(scene: Scene, level: Difficulty, generator: random.Random) -> Candidates:
        yield f"Which {kind} is on the sign?", ["written", kind]

    return candidates


def _says(scene: Scene, level: Difficulty, generator: random.Random) -> Candidates:
    if scene.sign is not None:
        texts = NUMBERS if scene.sign.kind == "number" else WORDS[: level.words]
        for text in generator.sample(texts, len(texts)):
            yield f"Does the sign say {text}?", ["says", text]


def _region(name: str) -> Callable[[Scene, Difficulty, random.Random], Candidates]:
    def candidates(scene: Scene, level: Difficulty, generator: random.Random) -> Candidates:
        for thing in generator.sample(scene.things, len(scene.things)):
            place = ["unique", ["in_box", list(thing.box)]]
            if name == "phrase":
                yield phrase_question(Region(thing.box, ""))[0], ["phrase", place]
            else:
                yield f"What {name} is the thing in {box_text(thing.box)}?", ["query", name, place]

    return candidates


def _region_box(scene: Scene, level: Difficulty, generator: random.Random) -> Candidates:
    for thing in generator.sample(scene.things, len(scene.things)):
        if wanted := reference(scene, thing):
            region = Region(thing.box, phrase(wanted))
            yield box_question(region)[0], ["box", ["unique", _filter(wanted)]]


def _combinations(scene: Scene, level: Difficulty) -> tuple[tuple[str, str], ...]:
    """The combinations that may be asked for: new ones in a scene that has new ones, otherwise those of training."""
    known = combinations(level, held_out=False)
    new = combinations(level, held_out=True)
    return new if any((thing.shape, thing.color) in new for thing in scene.things) else known


def _filter(wanted: dict[str, str]) -> Program:
    return ["filter", wanted, ["scene"]]


def _fixed(*answers: str) -> Callable[[Difficulty], tuple[str, ...]]:
    return lambda level: answers


def _colors(level: Difficulty) -> tuple[str, ...]:
    return COLORS[: level.colors]


def _shapes(level: Difficulty) -> tuple[str, ...]:
    return SHAPES[: level.shapes]


def _textures(level: Difficulty) -> tuple[str, ...]:
    return TEXTURES[: level.textures]


def _words(level: Difficulty) -> tuple[str, ...]:
    return WORDS[: level.words]


def _counts(level: Difficulty) -> tuple[str, ...]:
    return COUNTS[: min(MOST_COUNTED, level.things[1]) + 1]


def _none(level: Difficulty) -> None:
    return None


def _half(level: Difficulty) -> float:
    return 0.5


def _of_colors(level: Difficulty) -> float:
    return 1 / (level.colors * 0.75)  # a shape that is named excludes the combinations that training never shows


def _of_shapes(level: Difficulty) -> float:
    return 1 / (level.shapes * 0.75)


def _of_phrases(level: Difficulty) -> float:
    return 1 / (len(combinations(level, held_out=False)) * level.textures)  # the box tells the size


TEMPLATES: dict[str, Template] = {
    "color": Template("attribute", _attribute("color"), _colors, _of_colors),
    "shape": Template("attribute", _attribute("shape"), _shapes, _of_shapes),
    "size": Template("attribute", _attribute("size"), _fixed(*SIZES), _half),
    "texture": Template("attribute", _attribute("texture"), _textures, lambda level: 1 / level.textures),
    "count_color": Template("count", _count("color"), _counts, lambda level: 1 / len(_counts(level)), True),
    "count_shape": Template("count", _count("shape"), _counts, lambda level: 1 / len(_counts(level)), True),
    "count_both": Template("count", _count("color", "shape"), _fixed(*COUNTS[:3]), lambda level: 1 / 3, True),
    "more": Template("compare", _more, _fixed(*YES_NO), _half),
    "same_color": Template("compare", _same("color"), _fixed(*YES_NO), _half, True),
    "same_shape": Template("compare", _same("shape"), _fixed(*YES_NO), _half, True),
    "exists": Template("existence", _exists, _fixed(*YES_NO), _half),
    "relation": Template("relation", _relation, _fixed(*YES_NO), _half),
    "edge_color": Template("relation", _edge("color"), _colors, lambda level: 1 / level.colors),
    "edge_shape": Template("relation", _edge("shape"), _shapes, lambda level: 1 / level.shapes),
    "word": Template("ocr", _written("word"), _words, lambda level: 1 / level.words),
    "number": Template("ocr", _written("number"), _fixed(*NUMBERS), lambda level: 1 / len(NUMBERS)),
    "says": Template("ocr", _says, _fixed(*YES_NO), _half),
    "region_color": Template("region", _region("color"), _colors, lambda level: 1 / level.colors),
    "region_shape": Template("region", _region("shape"), _shapes, lambda level: 1 / level.shapes),
    "region_phrase": Template("region", _region("phrase"), _none, _of_phrases),
    "region_box": Template("region", _region_box, _none, lambda level: CHANCE_OF_A_BOX),
}
"""Every template by name, in the order of reports."""

REGION_TEMPLATES = tuple(name for name, template in TEMPLATES.items() if template.skill == "region")
