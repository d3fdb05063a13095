"""Training data of the five kinds of the paper (section 3.2), each record made from its number alone."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

from owl2.data.records import Conversation, Pair, turns

from .descriptions import article, caption, phrase, place
from .drawing import data_url, draw
from .facts import FACTS, random_fact
from .templates import REGION_TEMPLATES, TEMPLATES, SceneQuestion, ask, draw_answer
from .world import DIFFICULTIES, Difficulty, DifficultyName, Kind, Scene, Split, random_scene

KINDS: tuple[Kind, ...] = get_args(Kind)

QUESTIONS = 4
"""The number of questions of a conversation of the kinds vqa, region and text."""

DESCRIBE = "Describe the picture."
IMAGINE = "Imagine a picture and describe it."

_MOST_SCENES = 5000  # drawn until one allows an answer; the rarest is allowed by one in some hundred
_Exchanges = list[tuple[str, str]]


@dataclass(frozen=True)
class SceneSettings:
    """The settings that decide the records.

    Attributes:
        count: The number of records.
        seed, split: Seed and split of the scenes; two splits share a scene only by chance.
        kinds: Kinds of conversations, which take turns from record to record.
        image_size: Pixels a side of the images.
    """

    count: int = 20_000
    seed: int = 0
    split: Split = "train"
    difficulty: DifficultyName = "medium"
    kinds: tuple[Kind, ...] = KINDS
    image_size: int = 64


class Exchanges(NamedTuple):
    """A record before its image is drawn.

    Attributes:
        scene: The scene that its image shows; `None` if it is text alone.
        questions: The exchanges that are programs.
    """

    kind: Kind
    scene: Scene | None
    exchanges: _Exchanges
    questions: tuple[SceneQuestion, ...] = ()


class SceneConversations(Sequence[Conversation]):
    """Conversations by their number; images are drawn when a record is read, and come as data URLs."""

    def __init__(self, settings: SceneSettings) -> None:
        self.settings = settings

    def __len__(self) -> int:
        return self.settings.count

    def __getitem__(self, number: int) -> Conversation:  # type: ignore[override]
        found = self.exchanges(number)
        images = () if found.scene is None else (data_url(draw(found.scene, self.settings.image_size)),)
        return Conversation(record_name(self.settings, number), turns(found.exchanges, len(images)), images)

    def exchanges(self, number: int) -> Exchanges:
        """The record without its image.

        Raises:
            IndexError: There are fewer records.
        """
        _check_number(number, self.settings)
        kind = self.settings.kinds[number % len(self.settings.kinds)]
        generator = random.Random(record_name(self.settings, number))
        level = DIFFICULTIES[self.settings.difficulty]
        return _MAKERS[kind](level, self.settings.split, generator)


class ScenePairs(Sequence[Pair]):
    """Images with captions for stage 1, by their number, drawn as those of `SceneConversations`."""

    def __init__(self, settings: SceneSettings) -> None:
        self.settings = settings

    def __len__(self) -> int:
        return self.settings.count

    def __getitem__(self, number: int) -> Pair:  # type: ignore[override]
        scene, words = self.captioned(number)
        return Pair(record_name(self.settings, number), data_url(draw(scene, self.settings.image_size)), words)

    def captioned(self, number: int) -> tuple[Scene, str]:
        """The scene of a pair, and its caption.

        Raises:
            IndexError: There are fewer pairs.
        """
        _check_number(number, self.settings)
        generator = random.Random(f"pair-{record_name(self.settings, number)}")
        scene = random_scene(generator, DIFFICULTIES[self.settings.difficulty], self.settings.split)
        return scene, caption(scene)


def record_name(settings: SceneSettings, number: int) -> str:
    """The name of a record, which decides everything random about it."""
    return f"scenes-{settings.difficulty}-{settings.split}-{settings.seed}-{number}"


def asked_scene(
    names: Sequence[str], level: Difficulty, split: Split, generator: random.Random, count: int
) -> tuple[Scene, list[SceneQuestion]]:
    """A scene and questions about it in random order, at most `count`, each of another template.

    One of them is of a template that needs a scene for its answer, if there is any among the names: its answer is
    drawn, then scenes are drawn until one allows it. All answers of a template are so equally frequent.
    """
    rare = [name for name in names if TEMPLATES[name].needs_scene]
    scene, questions = random_scene(generator, level, split), []
    if rare:
        scene, question = scene_for(generator.choice(rare), level, split, generator)
        questions.append(question)
    others = [name for name in names if name not in rare]
    for name in generator.sample(others, len(others)):
        if len(questions) == count:
            break
        if found := ask(name, scene, level, generator, draw_answer(name, level, generator)):
            questions.append(found)
    generator.shuffle(questions)  # any template may come first, as a benchmark asks it
    return scene, questions


def scene_for(
    name: str, level: Difficulty, split: Split, generator: random.Random, wanted: str | None = None
) -> tuple[Scene, SceneQuestion]:
    """A scene that allows a question of a template, and this question.

    Args:
        wanted: The answer; by default it is drawn as in `draw_answer`.
    """
    wanted = draw_answer(name, level, generator) if wanted is None else wanted
    for _ in range(_MOST_SCENES):
        scene = random_scene(generator, level, split)
        if found := ask(name, scene, level, generator, wanted):
            return scene, found
    raise AssertionError(f"no scene in {_MOST_SCENES} allows a question of the template {name} with answer {wanted}")


def _captioned(level: Difficulty, split: Split, generator: random.Random) -> Exchanges:
    scene = random_scene(generator, level, split)
    return Exchanges("caption", scene, [(DESCRIBE, caption(scene))])


def _vqa(level: Difficulty, split: Split, generator: random.Random) -> Exchanges:
    scene, questions = asked_scene(level.templates, level, split, generator, QUESTIONS)
    return Exchanges("vqa", scene, [(item.text, item.answer) for item in questions], tuple(questions))


def _region(level: Difficulty, split: Split, generator: random.Random) -> Exchanges:
    scene, questions = asked_scene(REGION_TEMPLATES, level, split, generator, QUESTIONS)
    return Exchanges("region", scene, [(item.text, item.answer) for item in questions], tuple(questions))


def _dialogue(level: Difficulty, split: Split, generator: random.Random) -> Exchanges:
    """Asks whether there is a thing, then more and more about it or another one, which is only called "it"."""
    scene, opening = scene_for("exists", level, split, generator)
    exchanges = [(opening.text, opening.answer)]
    named = opening.program[1][1]
    fitting = [thing for thing in scene.things if all(getattr(thing, name) == named[name] for name in named)]
    asked = ["size", "texture"]
    if len(fitting) == 1:
        thing = fitting[0]
        exchanges.append(("Where is it?", place(thing)))
    else:
        thing = generator.choice(scene.things)
        exchanges.append((f"Which thing is {place(thing)}?", article(phrase({"shape": thing.shape}))))
        asked.append("color")
    for name in generator.sample(asked, len(asked)):
        if name != "texture" or level.textures > 1:
            exchanges.append((f"What {name} is it?", getattr(thing, name)))
    return Exchanges("dialogue", scene, exchanges, (opening,))


def _text(level: Difficulty, split: Split, generator: random.Random) -> Exchanges:
    lot = generator.random()
    if lot < 0.2:
        return Exchanges("text", None, [(IMAGINE, caption(random_scene(generator, level, split)))])
    if lot < 0.45:
        facts = [random_fact(name, level, generator) for name in generator.sample(list(FACTS), QUESTIONS)]
        return Exchanges("text", None, [(fact.text, fact.answer) for fact in facts])
    scene, questions = asked_scene(level.templates, level, split, generator, QUESTIONS)
    exchanges = [(item.text, item.answer) for item in questions]
    exchanges[0] = (f"{caption(scene)} {exchanges[0][0]}", exchanges[0][1])
    return Exchanges("text", None, exchanges, tuple(questions))


def _check_number(number: int, settings: SceneSettings) -> None:
    if not 0 <= number < settings.count:
        raise IndexError(f"there is no record {number} of {settings.count}")


_MAKERS: dict[Kind, Callable[[Difficulty, Split, random.Random], Exchanges]] = {
    "caption": _captioned,
    "vqa": _vqa,
    "region": _region,
    "dialogue": _dialogue,
    "text": _text,
}
