"""Sentences about a scene. Captions and text-only data are made of the same ones."""

from .world import ATTRIBUTES, Scene, Sign, Thing, cell_of

PLACES = (
    ("at the top left", "on the left", "at the bottom left"),
    ("at the top", "in the middle", "at the bottom"),
    ("at the top right", "on the right", "at the bottom right"),
)
"""The words for a place, by column and row of the grid."""

_REFERENCES = (
    ("shape",),
    ("color", "shape"),
    ("size", "shape"),
    ("size", "color", "shape"),
    ("texture", "shape"),
    ("color", "texture", "shape"),
    ("size", "texture", "shape"),
    ("size", "color", "texture", "shape"),
)
"""The sets of attributes that may name a thing, the smallest first."""


def caption(scene: Scene) -> str:
    """Everything in the scene as it is read, row by row: "At the top is a small red plain star." and so on.

    The order and the place, which comes first, leave nothing in a sentence to guess for a reader who sees the scene.
    """
    items: list[Thing | Sign] = [*scene.things, *([scene.sign] if scene.sign else [])]
    return " ".join(_sentence(item) for item in sorted(items, key=lambda item: cell_of(item.x, item.y)[::-1]))


def phrase(attributes: dict[str, str]) -> str:
    """A noun phrase without article, such as "small red star" or "red thing"."""
    words = [attributes[name] for name in ATTRIBUTES if name in attributes]
    return " ".join(words if "shape" in attributes else [*words, "thing"])


def reference(scene: Scene, thing: Thing, without: str | None = None) -> dict[str, str] | None:
    """The fewest attributes that fit no other thing of the scene, one aside; `None` if there are none."""
    for names in _REFERENCES:
        kept = names if without != "shape" else names[:-1]
        if without in kept or not kept:
            continue
        wanted = {name: getattr(thing, name) for name in kept}
        if sum(all(getattr(other, name) == value for name, value in wanted.items()) for other in scene.things) == 1:
            return wanted
    return None


def article(words: str) -> str:
    """The words with "a" or "an" in front."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(words: str) -> str:
    """A noun phrase in the plural."""
    return f"{words}es" if words.endswith("s") else f"{words}s"


def place(item: Thing | Sign) -> str:
    """The place of a thing, in words; no two things of a scene are in one place."""
    column, row = cell_of(item.x, item.y)
    return PLACES[column][row]


def _sentence(item: Thing | Sign) -> str:
    where = place(item)
    if isinstance(item, Sign):
        return f"{where[0].upper()}{where[1:]} is a sign that says {item.text}."
    words = article(phrase({name: getattr(item, name) for name in ATTRIBUTES}))
    return f"{where[0].upper()}{where[1:]} is {words}."
