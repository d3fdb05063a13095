r"""Answers in the text that a model generated for AGIEval, zero-shot. Source: evaluation specification 13.3.

Answers of the multi-answer sets are compared with the label as sets, those of the cloze sets by `math_equivalent`.
"""

import re
from typing import Literal

_SINGLE_CHOICE = (
    "aqua-rat gaokao-biology gaokao-chemistry gaokao-chinese gaokao-english gaokao-geography gaokao-history "
    "gaokao-mathqa logiqa-en logiqa-zh lsat-ar lsat-lr lsat-rc sat-en sat-en-without-passage sat-math"
).split()
_MULTIPLE_CHOICE = ("gaokao-physics", "jec-qa-ca", "jec-qa-kd")
_CLOZE = ("gaokao-mathcloze", "math")

AGIEVAL_DATASETS: dict[str, Literal["single", "multiple", "cloze"]] = {
    **{dataset: "single" for dataset in _SINGLE_CHOICE},
    **{dataset: "multiple" for dataset in _MULTIPLE_CHOICE},
    **{dataset: "cloze" for dataset in _CLOZE},
}
"""The 21 data sets and how they are answered: one letter, any number of letters, or a mathematical expression."""

_LETTERS = "ABCDEF"
_ANNOUNCEMENTS = ("The answer is therefore", "答案是")
_BETWEEN_DOLLARS = re.compile(r"\$(.*)\$")
_NUMBER = re.compile(r"\$?\d+(?:\.\d+)?(?!\w)")


def agieval_answer(text: str, dataset: str) -> str | list[str] | None:
    """The answer in a generated text.

    Args:
        text: What the model generated.
        dataset: One of the 21 names, such as "lsat-ar".

    Returns:
        Single-choice sets: the first letter A to F, "" without one. Any capital counts, that of "Because" too.
        jec-qa-kd, jec-qa-ca and gaokao-physics: every letter A to F, in order and with repetitions.
        gaokao-mathcloze and math: the expression, None when nothing is found.

    Raises:
        ValueError: An unknown data set.
    """
    kind = AGIEVAL_DATASETS.get(dataset)
    if kind is None:
        raise ValueError(f"unknown AGIEval data set {dataset!r}: use one of {', '.join(sorted(AGIEVAL_DATASETS))}")
    if kind == "cloze":
        return _cloze_answer(text)
    letters = [character for character in text if character in _LETTERS]
    if kind == "multiple":
        return letters
    return letters[0] if letters else ""


def _cloze_answer(text: str) -> str | None:
    r"""The last `\boxed{}` if there is any `\boxed`; otherwise the text between dollar signs, or the plain answer."""
    text = _after_announcement(text)
    if "\\boxed" in text:
        return _last_boxed(text)
    return _between_dollars(text) or _plain_answer(text)


def _after_announcement(text: str) -> str:
    """The text after the last announcement of an answer, or after an announcement at the very beginning."""
    for announcement in _ANNOUNCEMENTS:
        if text.startswith(announcement):
            text = text.removeprefix(announcement).strip()
        elif announcement in text:
            text = text.rpartition(announcement)[2].strip()
    return text


def _last_boxed(text: str) -> str | None:
    r"""The right side of the last `\boxed{...}`; None where its braces are missing or not closed."""
    content = text.rpartition("\\boxed")[2]
    if not content.startswith("{"):
        return None
    depth = 0
    for position, character in enumerate(content):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return _right_side(content[1:position])
    return None


def _between_dollars(text: str) -> str | None:
    """The right side of the text between the first and the last dollar sign of the last line that has two."""
    matches = _BETWEEN_DOLLARS.findall(text)
    return _right_side(matches[-1]) if matches else None


def _right_side(expression: str) -> str:
    return expression.rpartition("=")[2].lstrip(" ") if "=" in expression else expression


def _plain_answer(text: str) -> str | None:
    r"""What follows the last equals sign, up to a literal `\n`; without one, the last number.

    A number has no sign and no thousands separators: -5 gives 5, and 1,234 gives 234.
    """
    if "=" in text:
        return _right_side(text).rstrip(".").partition("\\n")[0]
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None
