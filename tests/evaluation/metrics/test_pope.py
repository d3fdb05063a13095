"""POPE scores against cases worked out by hand."""

import pytest

from owl2.evaluation.metrics.pope import pope_answer, pope_scores


@pytest.mark.parametrize(
    "prediction",
    ["No", "no", "No, there is none", "There is not a dog.", "no,", "I see no dog. Yes", "Yes, but not here", "No."],
)
def test_a_negative_word_in_the_first_sentence_is_a_no(prediction: str) -> None:
    assert pope_answer(prediction) == "no"


@pytest.mark.parametrize(
    "prediction",
    [
        "Yes",
        "",
        "NO",
        "no!",
        "Not here",
        "cannot",
        "isn't",
        "\nno",
        "no\n",
        "There\tis no\tdog",
        "Sure. No",
        ".no",
        "none",
    ],
)
def test_whatever_else_is_a_yes(prediction: str) -> None:
    assert pope_answer(prediction) == "yes"


def test_scores_take_yes_as_positive_and_count_the_yes_of_predictions() -> None:
    predictions = ["Yes", "Yes, a cat.", "No", "yes", "no", "No, it is not."]
    labels = ["yes", "no", "yes", "yes", "no", "no"]
    # TP 2, FP 1, FN 1, TN 2
    assert pope_scores(predictions, labels) == pytest.approx(
        {"accuracy": 4 / 6, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 1 / 2}
    )
    assert pope_scores([pope_answer(text) for text in predictions], labels) == pope_scores(predictions, labels)


def test_precision_and_recall_are_not_swapped_and_the_ratio_is_not_that_of_labels() -> None:
    scores = pope_scores(["yes", "yes", "yes", "no"], ["yes", "no", "no", "no"])  # TP 1, FP 2, TN 1
    assert scores == pytest.approx({"accuracy": 0.5, "precision": 1 / 3, "recall": 1.0, "f1": 0.5, "yes_ratio": 0.75})


def test_a_label_other_than_no_is_a_yes() -> None:
    assert pope_scores(["yes", "yes"], ["No", "unsure"])["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("predictions", "labels", "undefined"),
    [
        (["no", "no"], ["yes", "no"], ["precision", "f1"]),
        (["yes", "no"], ["no", "no"], ["recall", "f1"]),
        (["yes", "no"], ["no", "yes"], ["f1"]),
    ],
)
def test_a_ratio_of_nothing_to_nothing_is_zero_and_said_to_be(
    predictions: list[str], labels: list[str], undefined: list[str]
) -> None:
    with pytest.warns(UserWarning) as warned:
        scores = pope_scores(predictions, labels)
    assert [str(warning.message).split()[1] for warning in warned] == undefined
    assert [scores[name] for name in undefined] == [0.0] * len(undefined)


@pytest.mark.parametrize(("predictions", "labels"), [([], []), (["yes"], ["yes", "no"])])
def test_predictions_without_a_label_each_are_refused(predictions: list[str], labels: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(predictions)} predictions, {len(labels)} labels"):
        pope_scores(predictions, labels)


def test_a_prediction_that_is_no_text_is_refused_by_its_place() -> None:
    with pytest.raises(ValueError, match="prediction 1 must be a text, got None"):
        pope_scores(["yes", None], ["yes", "no"])  # type: ignore[list-item]
