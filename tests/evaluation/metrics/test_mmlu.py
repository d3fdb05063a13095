"""MMLU's averages, against sums worked out by hand and counts of the published table."""

import pytest

from owl2.evaluation.metrics.mmlu import MMLU_GROUPS, mmlu_scores

CORRECT = {
    "anatomy": [True, False],
    "astronomy": [True, True, True, True],
    "virology": [False, False, False, False],
    "philosophy": [True],
    "prehistory": [True, False, False],
}


def test_57_subjects_are_in_four_groups() -> None:
    sizes = {group: len(set(subjects)) for group, subjects in MMLU_GROUPS.items()}
    assert sizes == {"humanities": 13, "social": 12, "STEM": 19, "other": 13}
    assert len({subject for subjects in MMLU_GROUPS.values() for subject in subjects}) == 57


def test_micro_is_over_questions_and_macro_over_subjects() -> None:
    scores = mmlu_scores(CORRECT)
    assert scores["micro"] == 7 / 14
    assert scores["macro"] == pytest.approx((1 / 2 + 1 + 0 + 1 + 1 / 3) / 5)
    assert scores["per_subject"] == {
        "anatomy": 0.5,
        "astronomy": 1.0,
        "virology": 0.0,
        "philosophy": 1.0,
        "prehistory": 1 / 3,
    }


def test_groups_average_their_subjects_with_anatomy_in_stem() -> None:
    groups = mmlu_scores(CORRECT)["per_group"]
    assert groups == pytest.approx({"humanities": 2 / 3, "STEM": 3 / 4, "other": 0.0})  # nothing of "social" was asked


def test_classic_groups_average_their_questions_with_anatomy_in_other() -> None:
    scores = mmlu_scores(CORRECT, protocol="classic")
    assert scores["per_group"] == {"humanities": 2 / 4, "STEM": 4 / 4, "other": 1 / 6}
    assert (scores["micro"], scores["macro"]) == (mmlu_scores(CORRECT)["micro"], mmlu_scores(CORRECT)["macro"])


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\['college biology'\].*college_biology"):
        mmlu_scores({"virology": [True], "college biology": [True]})
    with pytest.raises(ValueError, match="without questions.*virology"):
        mmlu_scores({"virology": [], "anatomy": [True]})
    with pytest.raises(ValueError, match=r"not so in \['virology'\]"):
        mmlu_scores({"virology": [True, None], "anatomy": [True]})  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no MMLU subject"):
        mmlu_scores({})
    with pytest.raises(ValueError, match="'lmeval'.*opencompass2023, classic"):
        mmlu_scores(CORRECT, protocol="lmeval")
