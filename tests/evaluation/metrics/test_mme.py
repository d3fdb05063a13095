"""MME scores against cases worked out by hand."""

from typing import Any

import pytest

from owl2.evaluation.metrics.mme import COGNITION, PERCEPTION, mme_answer, mme_scores


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("Yes", "yes"),
        ("YES, there is a dog.", "yes"),
        ("no\n", "no"),
        (" yes", "yes"),
        ("nyes", "yes"),
        ("no yes", "no"),
        ("know", "no"),
        ("not at all", "no"),
        ("None", "no"),
        ("  no", "no"),
        ("    yes", "other"),
        ("   no", "other"),
        ("I say yes", "other"),
        ("y", "other"),
        ("", "other"),
    ],
)
def test_an_answer_is_read_from_its_first_four_characters_only(prediction: str, answer: str) -> None:
    assert mme_answer(prediction) == answer


def row(category: str, image: str, gt: str, pred: str) -> dict[str, str]:
    return {"category": category, "image": image, "gt": gt, "pred": pred}


def test_scores_add_the_accuracy_of_questions_and_that_of_images() -> None:
    rows = [
        row("existence", "1.jpg", "Yes", "Yes"),
        row("existence", "1.jpg", "No", "no, there is not"),  # both right
        row("OCR", "1.jpg", "Yes", "yes"),
        row("existence", "2.jpg", "Yes", "Yes"),
        row("existence", "2.jpg", "No", "Yes"),  # one right
        row("OCR", "1.jpg", "No", "It reads so"),  # other: wrong
        row("code_reasoning", "1.png", "Yes", "no"),
        row("code_reasoning", "1.png", "No", "yes"),
        row("existence", "3.jpg", "Yes", "No"),
        row("existence", "3.jpg", "No", "No"),  # one right
    ]
    scores = mme_scores(rows)
    # existence: 4 of 6 questions, 1 of 3 images; OCR: 1 of 2 questions, no image.
    assert scores["per_category"] == pytest.approx({"existence": 200 / 3 + 100 / 3, "OCR": 50.0, "code_reasoning": 0.0})
    assert scores["perception"] == pytest.approx(150.0)
    assert scores["cognition"] == 0.0


def test_all_right_gives_the_published_maxima() -> None:
    rows = [row(name, "a.jpg", gold, gold) for name in (*PERCEPTION, *COGNITION) for gold in ("Yes", "No")]
    scores = mme_scores(iter(rows))
    assert (scores["perception"], scores["cognition"]) == (2000.0, 800.0)
    assert set(scores["per_category"].values()) == {200.0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([row("ocr", "1.jpg", "Yes", "yes")] * 2, r"\['ocr'\].*'OCR'"),
        ([row("OCR", "1.jpg", "Yes", "yes")] * 3, "'OCR' has 3 rows"),
        ([row("OCR", "1.jpg", "Yes", "yes"), {"category": "OCR", "image": "1.jpg", "gt": "No"}], "row 1 .*`pred`"),
        ([row("OCR", "1.jpg", "Yes", "yes") | {"pred": None}], "row 0 .*None"),
        ([row("OCR", "1.jpg", "Yes", "yes"), row("OCR", "2.jpg", "No", "no")], "'1.jpg'.*'2.jpg'"),
        ([row("OCR", "1.jpg", "Yes", "yes"), row("OCR", "1.jpg", "maybe", "no")], "'maybe'"),
    ],
)
def test_rows_that_the_official_tool_cannot_score_are_refused_by_name(rows: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mme_scores(rows)
