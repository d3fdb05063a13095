"""POPE: is the object in the image, scored as a binary classification with "yes" positive (specification, section 9).

Source: the benchmark's evaluation script, protocol `pope_official`.
"""

import warnings
from collections.abc import Sequence
from typing import Literal

_NEGATIVE = {"No", "no", "not"}


def pope_answer(prediction: str) -> Literal["yes", "no"]:
    """Reads an answer: "no" if No, no or not stands between spaces before the first period, otherwise "yes".

    Commas are deleted, nothing is stripped: "", "NO", "no!", "cannot", "isn't", "\\nno" and "Yes. Not red" are yes.
    """
    first_sentence = prediction.split(".")[0].replace(",", "")
    return "no" if _NEGATIVE.intersection(first_sentence.split(" ")) else "yes"


def pope_scores(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Scores of one subset (random, popular or adversarial).

    Args:
        predictions: Raw texts, or what `pope_answer` made of them.
        labels: The labels in the order of the predictions; whatever is not "no" counts as yes.

    Returns:
        `accuracy`, `precision`, `recall`, `f1` and `yes_ratio` (of the predictions), as fractions. A ratio of 0 to 0,
        at which the official script stops, is 0.0, with a warning that names it.

    Raises:
        ValueError: Nothing to score, not one label a prediction, or a prediction that is no text.
    """
    if len(predictions) != len(labels) or not labels:
        raise ValueError(f"POPE needs one label a prediction, got {len(predictions)} predictions, {len(labels)} labels")
    if wrong := [index for index, prediction in enumerate(predictions) if not isinstance(prediction, str)]:
        raise ValueError(f"POPE prediction {wrong[0]} must be a text, got {predictions[wrong[0]]!r:.200}")
    said_yes = [pope_answer(prediction) == "yes" for prediction in predictions]
    is_yes = [label != "no" for label in labels]
    both_yes = sum(said and true for said, true in zip(said_yes, is_yes, strict=True))
    precision = _ratio("precision", both_yes, sum(said_yes))
    recall = _ratio("recall", both_yes, sum(is_yes))
    return {
        "accuracy": sum(said == true for said, true in zip(said_yes, is_yes, strict=True)) / len(labels),
        "precision": precision,
        "recall": recall,
        "f1": _ratio("f1", 2 * precision * recall, precision + recall),
        "yes_ratio": sum(said_yes) / len(labels),
    }


def _ratio(name: str, numerator: float, denominator: float) -> float:
    if denominator == 0:
        warnings.warn(f"the {name} of POPE is 0/0 on these predictions and labels: reported as 0.0", stacklevel=3)
        return 0.0
    return numerator / denominator
