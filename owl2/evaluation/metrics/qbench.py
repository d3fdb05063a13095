"""Q-Bench A1: the option that an answer chooses (specification, section 8)."""

import re
from collections.abc import Mapping

from .mmbench import is_missing, mmbench_choice

_FIRST_LETTER = re.compile(r"\s*\(?([A-Z])(?:[.):,]|\s*$)")  # "A", "A.", "A)", "(A)", "A:", "A,"


def qbench_choice(prediction: str, options: Mapping[str, str]) -> str | None:
    """The letter that an answer begins with, else what MMBench's `vlmevalkit` protocol finds in it.

    A beginning letter must be one of the options and stand alone or before one of `.):,`, so "D. Average" is D and
    "Average" is the option of that text. The script of Q-Instruct takes any letter that occurs anywhere instead,
    which makes "D. Average" right for A and for D.

    Args:
        prediction: Raw text.
        options: Text of each option by its capital letter; empty, `None` or NaN is an option that the question lacks.

    Returns:
        A letter, "Z" where the answer refuses to choose, or `None`: undecided. Both are wrong.
    """
    beginning = _FIRST_LETTER.match(prediction)
    if beginning and not is_missing(options.get(beginning[1])):
        return beginning[1]
    return mmbench_choice(prediction, options)
