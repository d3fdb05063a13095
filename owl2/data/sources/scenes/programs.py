"""Questions as programs over a scene: nested lists of an operation, its settings and what it works on.

    ["query", "color", ["unique", ["filter", {"shape": "star"}, ["scene"]]]]

    things of a set   ["scene"]  ["filter", {attribute: value}, SET]  ["beside", DIRECTION, THING]  ["in_box", BOX]
    one thing         ["unique", SET]  ["edge", DIRECTION, SET]
    answers           ["query", ATTRIBUTE, THING]  ["count", SET]  ["exist", SET]  ["more", SET, SET]
                      ["same", ATTRIBUTE, THING, THING]  ["is_beside", DIRECTION, THING, THING]
                      ["phrase", THING]  ["box", THING]  ["written", KIND]  ["says", TEXT]

A program that supposes something false, such as one star where there are two, has no answer.
"""

from typing import Any

from owl2.data.sources.regions import box_text

from .world import ATTRIBUTES, Scene, Thing

Program = list[Any]

COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")

DIRECTIONS = {"left": ("x", -1), "right": ("x", 1), "above": ("y", -1), "below": ("y", 1)}

CLEAR = 0.2
"""A thing is beside another if their centres are this far apart in the direction: then they are in other cells too."""


class NoAnswerError(Exception):
    """The program supposes something that is false in this scene."""


def answer(program: Program, scene: Scene) -> str:
    """The answer of a program: a word, a phrase, a text on a sign or a box.

    Raises:
        NoAnswerError: The scene is not as the program supposes.
    """
    match program:
        case ["query", attribute, thing]:
            return str(getattr(_thing(thing, scene), attribute))
        case ["count", things]:
            return COUNTS[len(_things(things, scene))]
        case ["exist", things]:
            return _yes(bool(_things(things, scene)))
        case ["more", first, second]:
            return _yes(len(_things(first, scene)) > len(_things(second, scene)))
        case ["same", attribute, first, second]:
            return _yes(getattr(_thing(first, scene), attribute) == getattr(_thing(second, scene), attribute))
        case ["is_beside", direction, first, second]:
            return _yes(_is_beside(direction, _thing(first, scene), _thing(second, scene)))
        case ["phrase", thing]:
            return " ".join(getattr(_thing(thing, scene), attribute) for attribute in ATTRIBUTES)
        case ["box", thing]:
            return box_text(_thing(thing, scene).box)
        case ["written", kind] if scene.sign is not None and scene.sign.kind == kind:
            return scene.sign.text
        case ["says", text] if scene.sign is not None:
            return _yes(scene.sign.text == text)
        case ["written", _] | ["says", _]:
            raise NoAnswerError("there is no such sign")
    raise ValueError(f"{program} is not a program that gives an answer")


def _things(program: Program, scene: Scene) -> list[Thing]:
    match program:
        case ["scene"]:
            return list(scene.things)
        case ["filter", wanted, things]:
            found = _things(things, scene)
            return [thing for thing in found if all(getattr(thing, name) == value for name, value in wanted.items())]
        case ["beside", direction, thing]:
            place = _thing(thing, scene)
            return [other for other in scene.things if distance(direction, other, place) >= CLEAR]
        case ["in_box", [left, top, right, bottom]]:
            return [thing for thing in scene.things if left < thing.x < right and top < thing.y < bottom]
    raise ValueError(f"{program} is not a program that gives a set of things")


def _thing(program: Program, scene: Scene) -> Thing:
    match program:
        case ["unique", things]:
            found = _things(things, scene)
            if len(found) != 1:
                raise NoAnswerError(f"{len(found)} things where one is supposed")
            return found[0]
        case ["edge", direction, things]:
            found = sorted(_things(things, scene), key=lambda thing: -distance(direction, thing, scene.things[0]))
            if not found or len(found) > 1 and distance(direction, found[0], found[1]) < CLEAR:
                raise NoAnswerError(f"no thing is clearly the furthest {direction}")
            return found[0]
    raise ValueError(f"{program} is not a program that gives one thing")


def distance(direction: str, thing: Thing, other: Thing) -> float:
    """The distance of a thing from another in a direction; negative if it is on the other side."""
    axis, sign = DIRECTIONS[direction]
    return sign * float(getattr(thing, axis) - getattr(other, axis))


def _is_beside(direction: str, thing: Thing, other: Thing) -> bool:
    apart = distance(direction, thing, other)
    if abs(apart) < CLEAR:
        raise NoAnswerError(f"neither thing is clearly {direction} of the other")
    return apart > 0


def _yes(value: bool) -> str:
    return "yes" if value else "no"
