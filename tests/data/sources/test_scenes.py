"""Generated scenes: exact answers, fair questions, combinations that training never shows, images from their number."""

import json
import random
import re
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from owl2.data.sources.scenes import descriptions, programs
from owl2.data.sources.scenes.benchmark import items
from owl2.data.sources.scenes.drawing import PICTURE_SIZE, RGB, draw
from owl2.data.sources.scenes.facts import FACTS, random_fact
from owl2.data.sources.scenes.records import (
    KINDS,
    SceneConversations,
    ScenePairs,
    SceneSettings,
    asked_scene,
    scene_for,
)
from owl2.data.sources.scenes.templates import CHANCE_OF_A_BOX, REGION_TEMPLATES, TEMPLATES
from owl2.data.sources.scenes.world import (
    COLORS,
    DIFFICULTIES,
    RADII,
    SHAPES,
    SIGN_SIZE,
    cell_of,
    combinations,
    is_held_out,
    random_scene,
)
from owl2.processing import load_image
from owl2.processing.image_processor import resize_image

LEVELS = list(DIFFICULTIES)


def restated(program, scene):
    """A second interpreter, over the plain values of a scene; `LookupError` where the program supposes too much."""
    operation, *inputs = program
    values = [
        restated(each, scene) if isinstance(each, list) and each and each[0] in NAMES else each for each in inputs
    ]
    return NAMES[operation](scene, *values)


def _only(things):
    if len(things) != 1:
        raise LookupError
    return things[0]


def _ahead(direction, thing, other):
    difference = {
        "left": other["x"] - thing["x"],
        "right": thing["x"] - other["x"],
        "above": other["y"] - thing["y"],
        "below": thing["y"] - other["y"],
    }
    return difference[direction]


def _clearly(direction, thing, other):
    if abs(_ahead(direction, thing, other)) < 0.2:
        raise LookupError
    return _ahead(direction, thing, other) > 0


def _furthest(direction, things):
    found = [each for each in things if all(each is other or _ahead(direction, each, other) >= 0.2 for other in things)]
    return _only(found)


def _box(thing):
    half = {"small": 0.08, "large": 0.135}[thing["size"]]
    edges = thing["x"] - half, thing["y"] - half, thing["x"] + half, thing["y"] + half
    return "[" + ", ".join(f"{round(edge, 2):.2f}" for edge in edges) + "]"


def _written(scene, kind):
    sign = scene["sign"]
    if sign is None or sign["text"].isdecimal() != (kind == "number"):
        raise LookupError
    return sign["text"]


NAMES = {
    "scene": lambda scene: scene["things"],
    "filter": lambda scene, wanted, things: [each for each in things if wanted.items() <= each.items()],
    "in_box": lambda scene, box: [
        each for each in scene["things"] if box[0] < each["x"] < box[2] and box[1] < each["y"] < box[3]
    ],
    "unique": lambda scene, things: _only(things),
    "edge": lambda scene, direction, things: _furthest(direction, things),
    "query": lambda scene, name, thing: thing[name],
    "count": lambda scene, things: "zero one two three four five six seven".split()[len(things)],
    "exist": lambda scene, things: "yes" if things else "no",
    "more": lambda scene, first, second: "yes" if len(first) > len(second) else "no",
    "same": lambda scene, name, first, second: "yes" if first[name] == second[name] else "no",
    "is_beside": lambda scene, direction, first, second: "yes" if _clearly(direction, first, second) else "no",
    "phrase": lambda scene, thing: "{size} {color} {texture} {shape}".format(**thing),
    "box": lambda scene, thing: _box(thing),
    "written": _written,
    "says": lambda scene, text: "yes" if scene["sign"]["text"] == text else "no",
}


@pytest.mark.parametrize("difficulty", LEVELS)
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_answer_is_what_its_program_gives_on_the_scene_read_back_from_json(difficulty, split):
    level, generator = DIFFICULTIES[difficulty], random.Random(7)
    asked = Counter()
    for _ in range(150):
        for names in (level.templates, REGION_TEMPLATES):
            scene, questions = asked_scene(names, level, split, generator, 8)
            plain = json.loads(json.dumps(scene.to_dict()))
            for question in questions:
                assert restated(json.loads(json.dumps(question.program)), plain) == question.answer
                asked[question.template] += 1
    assert set(asked) == {*level.templates, *REGION_TEMPLATES}


def test_a_program_that_supposes_too_much_has_no_answer():
    scene = random_scene(random.Random(1), DIFFICULTIES["medium"], "train")
    with pytest.raises(programs.NoAnswerError):
        programs.answer(["query", "color", ["unique", ["filter", {"shape": "heart"}, ["scene"]]]], scene)
    with pytest.raises(ValueError, match="dance"):
        programs.answer(["dance"], scene)


@pytest.mark.parametrize("difficulty", LEVELS)
def test_training_never_shows_or_asks_for_a_held_out_combination(difficulty):
    level = DIFFICULTIES[difficulty]
    new = {f"{color} {shape}" for shape, color in combinations(level, held_out=True)}
    assert len(new) == level.shapes * level.colors / 4
    for split in ("train", "test"):
        for kind in ("vqa", "region", "dialogue"):
            records = SceneConversations(SceneSettings(count=150, split=split, difficulty=difficulty, kinds=(kind,)))
            for number in range(150):
                found = records.exchanges(number)
                assert not any(is_held_out(thing.shape, thing.color) for thing in found.scene.things)
                words = " ".join(text for exchange in found.exchanges for text in exchange)
                assert not any(re.search(rf"\b{each}s?\b", words) for each in new)
    for item in items("held_out", difficulty):
        assert all(is_held_out(thing.shape, thing.color) for thing in item.scene.things)


def test_as_many_combinations_of_each_shape_and_colour_are_held_out():
    for level in DIFFICULTIES.values():
        held_out = combinations(level, held_out=True)
        for part, words in ((0, SHAPES[: level.shapes]), (1, COLORS[: level.colors])):
            assert len({sum(pair[part] == word for pair in held_out) for word in words}) == 1


@pytest.mark.parametrize("difficulty", LEVELS)
def test_nothing_overlaps_or_leaves_its_cell(difficulty):
    generator = random.Random(3)
    for _ in range(200):
        scene = random_scene(generator, DIFFICULTIES[difficulty], "train")
        placed = [(thing.x, thing.y, RADII[thing.size], RADII[thing.size]) for thing in scene.things]
        if scene.sign:
            placed.append((scene.sign.x, scene.sign.y, SIGN_SIZE[0] / 2, SIGN_SIZE[1] / 2))
        assert len({cell_of(x, y) for x, y, _, _ in placed}) == len(placed)
        for x, y, width, height in placed:
            assert cell_of(x - width, y - height) == cell_of(x + width, y + height) == cell_of(x, y)


def _asked(difficulty, seed, count):
    """Questions of each template as training asks them."""
    found = defaultdict(list)
    for kind in ("vqa", "region"):
        settings = SceneSettings(count=count, seed=seed, difficulty=difficulty, kinds=(kind,))
        for number in range(count):
            for question in SceneConversations(settings).exchanges(number).questions:
                found[question.template].append((question.text, question.answer))
    return found


class BlindModel:
    """Naive Bayes over the words and pairs of neighbouring words of a question: all that a blind model has."""

    def __init__(self, questions):
        self.answers = sorted({answer for _, answer in questions})
        words = sorted({word for text, _ in questions for word in self._features(text)})
        self.columns = {word: column for column, word in enumerate(words)}
        counts = np.ones((len(self.answers), len(words)))
        prior = np.zeros(len(self.answers))
        for text, answer in questions:
            row = self.answers.index(answer)
            prior[row] += 1
            np.add.at(counts[row], [self.columns[word] for word in self._features(text)], 1)
        self.log_shares = np.log(counts / counts.sum(1, keepdims=True))
        self.log_prior = np.log(prior)

    def answer(self, text):
        columns = [self.columns[word] for word in self._features(text) if word in self.columns]
        return self.answers[int(np.argmax(self.log_prior + self.log_shares[:, columns].sum(1)))]

    @staticmethod
    def _features(text):
        words = re.findall(r"\w+", text.lower())
        return [*words, *(" ".join(pair) for pair in pairwise(words))]


@pytest.mark.parametrize("difficulty", ["simple", "easy", "medium"])
def test_a_blind_model_is_at_chance_for_every_template(difficulty):
    """Neither the most frequent answer nor a model of the questions' words beats the chance that a template states."""
    level = DIFFICULTIES[difficulty]
    asked = _asked(difficulty, 0, 3000)
    measured = defaultdict(list)
    for split in ("test", "region"):
        for item in items(split, difficulty):
            measured[item.template].append((item.text, item.answer))
    assert asked.keys() == measured.keys() == {*level.templates, *REGION_TEMPLATES}
    for name in asked.keys() - {"region_box"}:
        chance, half = TEMPLATES[name].chance(level), len(asked[name]) // 2
        blind = BlindModel(asked[name][:half])
        for tested in (asked[name][half:], measured[name]):
            right = np.mean([blind.answer(text) == answer for text, answer in tested])
            constant = Counter(answer for _, answer in tested).most_common(1)[0][1] / len(tested)
            bound = chance + 3 * np.sqrt(chance * (1 - chance) / len(tested)) + 0.01
            assert right <= bound and constant <= bound, (name, right, constant, chance)


def test_no_constant_box_meets_more_boxes_than_the_chance_of_their_template_says():
    generator, found = random.Random(6), []
    for _ in range(400):
        found += [thing.box for thing in random_scene(generator, DIFFICULTIES["medium"], "train").things]
    boxes = np.array(found)
    guesses = [
        (x - half, y - half, x + half, y + half)
        for x in np.arange(0.1, 0.91, 0.05)
        for y in np.arange(0.1, 0.91, 0.05)
        for half in (0.08, 0.1, 0.12, 0.135)
    ]
    best = 0.0
    for guess in guesses:
        sides = np.minimum(boxes[:, 2:], guess[2:]) - np.maximum(boxes[:, :2], guess[:2])
        common = np.clip(sides, 0, None).prod(1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (guess[2] - guess[0]) * (guess[3] - guess[1])
        best = max(best, float(np.mean(common / (areas - common) >= 0.5)))
    assert CHANCE_OF_A_BOX - 0.05 < best <= CHANCE_OF_A_BOX


@pytest.mark.parametrize("difficulty", LEVELS)
def test_answers_of_the_benchmark_are_equally_frequent(difficulty):
    for split in ("test", "held_out"):
        answers = defaultdict(Counter)
        for item in items(split, difficulty):
            answers[item.template][item.answer] += 1
        for name in DIFFICULTIES[difficulty].templates:
            assert max(answers[name].values()) - min(answers[name].values()) <= 1, (name, answers[name])


@pytest.mark.parametrize("difficulty", LEVELS)
def test_a_counterfactual_pair_differs_in_one_thing_and_in_its_answer(difficulty):
    found = items("counterfactual", difficulty)
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert first.text == second.text and first.answer != second.answer and first.pair == second.pair
        one, other = first.scene, second.scene
        changed = [pair for pair in zip(one.things, other.things, strict=True) if pair[0] != pair[1]]
        assert len(changed) + (one.sign != other.sign) == 1
        for before, after in changed:
            attributes = [name for name in descriptions.ATTRIBUTES if getattr(before, name) != getattr(after, name)]
            assert len(attributes) + ((before.x, before.y) != (after.x, after.y)) == 1


def test_a_record_depends_on_its_seed_split_and_number_alone():
    settings = SceneSettings(count=40, kinds=KINDS)
    forward = [SceneConversations(settings)[number] for number in range(40)]
    backward = [SceneConversations(settings)[number] for number in reversed(range(40))]
    assert forward == backward[::-1]
    for other in (
        SceneSettings(count=40, seed=1),
        SceneSettings(count=40, split="test"),
        SceneSettings(count=40, difficulty="hard"),
    ):
        assert all(
            SceneConversations(other).exchanges(n) != SceneConversations(settings).exchanges(n) for n in range(40)
        )
    with pytest.raises(IndexError, match="40"):
        SceneConversations(settings)[40]


@pytest.mark.parametrize("difficulty", LEVELS)
def test_every_template_opens_conversations_as_a_benchmark_asks_it(difficulty):
    """A template that never came first would be asked for the first time, without turns before it, in the benchmark."""
    for kind in ("vqa", "text"):
        records = SceneConversations(SceneSettings(count=400, difficulty=difficulty, kinds=(kind,)))
        asked = [found for number in range(400) if (found := records.exchanges(number).questions)]
        first = Counter(questions[0].template for questions in asked)
        anywhere = Counter(question.template for questions in asked for question in questions)
        for name in DIFFICULTIES[difficulty].templates:
            assert first[name] > anywhere[name] / 8, (name, first, anywhere)


def test_the_five_kinds_take_turns():
    records = SceneConversations(SceneSettings(count=10))
    assert [records.exchanges(number).kind for number in range(10)] == [*KINDS, *KINDS]
    for number in range(10):
        conversation = records[number]
        assert bool(conversation.images) == (records.exchanges(number).kind != "text")
        assert sum(part["type"] == "image" for part in conversation.messages[0]["content"]) == len(conversation.images)


def test_captions_and_text_only_data_are_made_of_the_same_sentences():
    """Shares of the sentences' forms agree between the two within what chance allows."""
    forms = []
    pairs = ScenePairs(SceneSettings(count=600))
    texts = SceneConversations(SceneSettings(count=3000, kinds=("text",)))
    captions = [pairs.captioned(number)[1] for number in range(600)]
    told = [answer for n in range(3000) for question, answer in texts.exchanges(n).exchanges if "Imagine" in question]
    for group in (captions, told):
        found = Counter(form for words in group for form in re.findall(r"[AOI][^.]*\.", words))
        words = Counter(word for form, count in found.items() for word in form.lower().split() for _ in range(count))
        forms.append({word: count / words.total() for word, count in words.items()})
    assert forms[0].keys() == forms[1].keys()
    assert max(abs(forms[0][word] - forms[1][word]) for word in forms[0]) < 0.02


def test_a_description_says_all_that_its_questions_ask():
    """A reader of the sentences alone, who knows only the grid, finds the counts and attributes of the scene."""
    generator, level = random.Random(5), DIFFICULTIES["hard"]
    for _ in range(100):
        scene = random_scene(generator, level, "train")
        words = descriptions.caption(scene)
        read = re.findall(r"(At|On|In) the ([a-z ]+) is an? (small|large) (\w+) (\w+) (\w+)\.", words)
        assert sorted(each[2:] for each in read) == sorted((t.size, t.color, t.texture, t.shape) for t in scene.things)
        rows = {"top": 0, "bottom": 2}
        for _, where, size, color, texture, shape in read:
            row = next((number for word, number in rows.items() if word in where), 1)
            column = 0 if "left" in where else 2 if "right" in where else 1
            thing = next(each for each in scene.things if cell_of(each.x, each.y) == (column, row))
            assert (thing.size, thing.color, thing.texture, thing.shape) == (size, color, texture, shape)
        assert re.findall(r"says (\w+)\.", words) == ([scene.sign.text] if scene.sign else [])


def test_facts_are_true():
    generator, level = random.Random(2), DIFFICULTIES["hard"]
    numbers = "zero one two three four five six seven eight".split()
    for name in FACTS:
        for _ in range(60):
            fact = random_fact(name, level, generator)
            counts = [numbers.index(word) for word in re.findall(r"\w+", fact.text) if word in numbers]
            if name == "fact_sum":
                assert fact.answer == numbers[sum(counts)]
            elif name == "fact_next":
                assert abs(numbers.index(fact.answer) - counts[0]) == 1
                assert ("after" in fact.text) == (numbers.index(fact.answer) > counts[0])
            elif name in ("fact_greater", "fact_more"):
                assert fact.answer == ("yes" if counts[0] > counts[1] else "no")
            elif name == "fact_chain":
                told = re.findall(r"[Tt]he (\w+ \w+) (?:is )?(?:to the )?(left|right|above|below)", fact.text)
                asked = re.search(r"Is the (\w+ \w+) ", fact.text)[1]
                assert fact.answer == ("yes" if asked == told[0][0] else "no")


def test_a_thing_is_drawn_in_its_colour_inside_its_box_and_nowhere_else():
    generator = random.Random(11)
    for _ in range(20):
        scene = random_scene(generator, DIFFICULTIES["hard"], "train")._replace(sign=None)
        thing = scene.things[0]
        alone = np.asarray(draw(scene._replace(things=(thing,)), PICTURE_SIZE)).astype(int)
        painted = np.abs(alone - np.array(scene.background)).sum(-1) > 0
        rows, columns = np.nonzero(painted)
        radius = RADII[thing.size]
        edges = np.array([columns.min(), rows.min(), columns.max(), rows.max()]) / PICTURE_SIZE
        box = np.array([thing.x - radius, thing.y - radius, thing.x + radius, thing.y + radius])
        assert np.abs(edges - box).max() < 0.3 * radius + 2 / PICTURE_SIZE
        colors = Counter(map(tuple, alone[painted].tolist()))
        assert RGB[thing.color] in dict(colors.most_common(3))


@pytest.mark.parametrize("size", [32, 64, 224])
def test_a_small_image_is_what_a_model_makes_of_the_benchmarks_picture(size):
    scene = random_scene(random.Random(4), DIFFICULTIES["hard"], "train")
    resized = resize_image(draw(scene, PICTURE_SIZE), size, size, None, (0.5, 0.5, 0.5))
    assert np.array_equal(np.asarray(resized), np.asarray(draw(scene, size)))
    assert draw(scene, 448).size == (448, 448)


def test_the_image_of_a_record_shows_its_scene():
    records = SceneConversations(SceneSettings(count=4, kinds=("vqa",), image_size=48))
    for number in range(4):
        shown = load_image(records[number].images[0])
        assert np.array_equal(np.asarray(shown), np.asarray(draw(records.exchanges(number).scene, 48)))


def test_every_level_has_scenes_for_every_answer():
    for level in DIFFICULTIES.values():
        for name in level.templates:
            for wanted in TEMPLATES[name].answers(level):
                for split in ("train", "held_out"):
                    _, question = scene_for(name, level, split, random.Random(0), wanted)
                    assert question.answer == wanted
