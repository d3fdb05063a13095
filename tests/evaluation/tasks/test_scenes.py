"""Generated scenes as a benchmark: what is shown with a question, and how answers are scored."""

from pathlib import Path

import numpy as np
import pytest

from owl2.data.sources.scenes.benchmark import items
from owl2.data.sources.scenes.drawing import PICTURE_SIZE, draw
from owl2.evaluation.task import Prediction
from owl2.evaluation.tasks import task_named

TASK = task_named("scenes_easy")
NOWHERE = Path("nowhere")


def predictions(samples, answers):
    return [
        Prediction(sample.id, sample.prompt, answer, sample.gold, sample.details)
        for sample, answer in zip(samples, answers, strict=True)
    ]


def score(samples, answers):
    return TASK.score(predictions(samples, answers), "exact_match")


@pytest.mark.parametrize("split", TASK.splits)
def test_right_answers_score_one_for_every_skill_and_template(split):
    samples = TASK.load(NOWHERE, split, TASK.prompt_for(split, None))
    summary = score(samples, [sample.gold for sample in samples]).summary
    assert summary["accuracy"] == 1 and summary.get("pair_accuracy", 1) == 1
    assert set(summary["by_skill"].values()) == set(summary["by_template"].values()) == {1.0}
    assert len({sample.id for sample in samples}) == len(samples)


def test_each_prompt_shows_its_image_with_the_same_questions():
    shown = {prompt: TASK.load(NOWHERE, "region", prompt) for prompt in TASK.prompts}
    assert len({tuple((each.id, each.prompt, each.gold) for each in samples) for samples in shown.values()}) == 1
    item = items("region", "easy")[5]
    found = {prompt: [np.asarray(image()) for image in samples[5].images] for prompt, samples in shown.items()}
    assert np.array_equal(found["matching"][0], np.asarray(draw(item.scene, PICTURE_SIZE)))
    assert np.array_equal(found["unrelated"][0], np.asarray(draw(item.other, PICTURE_SIZE)))
    assert not np.array_equal(found["matching"][0], found["unrelated"][0])
    assert found["blank"][0].std() == 0
    assert found["no_image"] == []


def test_questions_with_an_unrelated_image_are_those_of_the_text_split():
    text, unrelated = (TASK.load(NOWHERE, split, TASK.prompt_for(split, None)) for split in ("text", "unrelated_image"))
    assert [(each.id, each.prompt, each.gold) for each in text] == [(e.id, e.prompt, e.gold) for e in unrelated]
    assert not any(each.images for each in text) and all(len(each.images) == 1 for each in unrelated)


def test_facts_have_no_matching_image_and_are_left_out_with_it():
    matching = TASK.load(NOWHERE, "unrelated_image", "matching")
    assert matching and not any(each.details["skill"] == "fact" for each in matching)


def test_a_pair_counts_only_if_both_of_its_answers_are_right():
    samples = TASK.load(NOWHERE, "counterfactual", "no_image")
    same = {}  # a blind model gives both questions of a pair one answer, here the right one of the first
    answers = [same.setdefault((each.details["template"], each.details["pair"]), each.gold) for each in samples]
    summary = score(samples, answers).summary
    assert summary["accuracy"] == 0.5 and summary["pair_accuracy"] == 0
    half = score(samples, [each.gold if index % 4 < 2 else "none" for index, each in enumerate(samples)]).summary
    assert half["pair_accuracy"] == 0.5


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("[0.10, 0.10, 0.30, 0.30]", 1.0),
        ("[0.12, 0.1, 0.3, 0.3]", 1.0),
        ("It is in [0.20, 0.10, 0.40, 0.30].", 0.0),  # a third
        ("[0.30, 0.30, 0.10, 0.10]", 0.0),
        ("nowhere", 0.0),
    ],
)
def test_a_box_is_right_from_half_of_the_union_on(answer, right):
    details = {"template": "region_box", "skill": "region", "chance": 0.12, "pair": None}
    record = Prediction("a", "", answer, "[0.10, 0.10, 0.30, 0.30]", details)
    assert TASK.score([record], "exact_match").scores == [right]


def test_case_and_a_full_stop_do_not_matter():
    details = {"template": "color", "skill": "attribute", "chance": 0.25, "pair": None}
    records = [Prediction(word, "", word, "red", details) for word in ("Red.", "red", "red star")]
    assert TASK.score(records, "exact_match").scores == [1.0, 1.0, 0.0]
