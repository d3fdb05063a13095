"""A-OKVQA: multiple choice with the options in several orders."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owl2.data.sources import a_okvqa

Write = Callable[[str, Any], Path]
Spoken = Callable[[Any], list[tuple[str, str]]]
CHOICES = ["museum", "beach", "bakery", "airport"]


def question(number: int = 1, **changes: Any) -> dict[str, Any]:
    fields = {
        "split": "train",
        "image_id": 299207,
        "question_id": f"22MexNkBPpdZGX6sxbxVB{number}",
        "question": "Where is this?",
        "choices": CHOICES,
        "correct_choice_idx": 2,
        "direct_answers": ["bakery"] * 10,
        "difficult_direct_answer": False,
        "rationales": ["There is bread."] * 3,
    }
    return {**fields, **changes}


def test_a_record_lists_all_options_and_answers_with_the_letter_of_the_right_one(write: Write, spoken: Spoken) -> None:
    found = list(a_okvqa.conversations(write("aokvqa_v1p0_train.json", [question()]), "coco"))
    assert len(found) == 3 and len({record.id for record in found}) == 3
    for record in found:
        assert record.images == ("coco/train2017/000000299207.jpg",)
        (_, prompt), (_, letter) = spoken(record)
        first, *options, last = prompt.split("\n")
        assert (first, last) == (
            "Where is this?",
            "Answer with the option’s letter from the given choices directly.",
        )
        assert [option[:3] for option in options] == ["A. ", "B. ", "C. ", "D. "]
        assert sorted(option[3:] for option in options) == sorted(CHOICES)
        assert f"{letter}. bakery" in options


def test_the_right_option_has_another_letter_in_every_order_and_no_favourite(write: Write, spoken: Spoken) -> None:
    file = write("train.json", [question(number) for number in range(400)])
    letters = [spoken(record)[1][1] for record in a_okvqa.conversations(file, "")]
    assert all(len(set(letters[start : start + 3])) == 3 for start in range(0, 1200, 3))
    assert all(240 < number < 360 for number in Counter(letters).values())  # 300 each


def test_orders_depend_on_seed_and_epoch_alone(write: Write) -> None:
    file = write("train.json", [question(number) for number in range(10)])

    def given(seed: int, epoch: int) -> list[Any]:
        return list(a_okvqa.conversations(file, "", seed=seed, epoch=epoch))

    assert given(0, 0) == given(0, 0)
    assert given(0, 1) != given(0, 0) != given(1, 0)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"correct_choice_idx": 4}, "correct_choice_idx is 4, of 4 choices"),
        ({"correct_choice_idx": -1}, "correct_choice_idx is -1, of 4 choices"),
        ({"choices": ["a", "b"], "correct_choice_idx": 0}, "has 2 choices: 3 orders"),
        ({"choices": []}, "of 0 choices"),
        ({"image_id": "299207"}, "'image_id' is '299207', not an integer"),
        ({"split": "../x"}, "not a file under the image root"),
    ],
)
def test_a_broken_question_is_named(write: Write, changes: dict[str, Any], problem: str) -> None:
    file = write("train.json", [question(), question(2, **changes)])
    with pytest.raises(ValueError, match=rf"train\.json, record 2: .*{problem}"):
        list(a_okvqa.conversations(file, "coco"))
