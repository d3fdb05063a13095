"""What the multiple-choice benchmarks share: options as lines, the instruction, the letter of an answer (specification,
4 to 8 and 13).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase

from owl2.evaluation.task import Scores

ANSWER_WITH_LETTER = "Answer with the option's letter from the given choices directly."
OWL2_ANSWER_WITH_LETTER = ANSWER_WITH_LETTER.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}")
"""The instruction of the official scripts (specification, 6.2)."""


def lettered(texts: Iterable[str]) -> dict[str, str]:
    """The texts by the letters A, B, C, ..."""
    return dict(zip(ascii_uppercase, texts, strict=False))


def option_lines(options: Mapping[str, str]) -> str:
    """The options, one a line as `A. text`."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


def owl2_prompt(hint: str, question: str, options: Mapping[str, str]) -> str:
    """The prompt of the official scripts: hint or `N/A`, question, options, instruction (specification, 6.2)."""
    return f"{hint or 'N/A'}\n{question}\n{option_lines(options)}\n{OWL2_ANSWER_WITH_LETTER}"


def first_option(text: str, letters: str) -> str:
    """The letter that an answer names: after "answer is", standing alone, or the first one; "" if there is none.

    OpenCompass' `first_option_postprocess` tries some forty patterns, mostly Chinese, in this order.
    """
    for pattern in (
        rf"[Tt]he (?:correct )?answer (?:to the question )?is (?:option )?\(?([{letters}])",
        rf"(?:^|\s)\(?([{letters}])\)?(?:[\s,.:]|$)",
        rf"([{letters}])",
    ):
        if match := re.search(pattern, text):
            return match.group(1)
    return ""


def without_answers(parsed: Sequence[str | None]) -> Scores:
    """The result of a split whose answers only the benchmark's server knows: the number of predictions read."""
    read = sum(letter is not None for letter in parsed)
    return Scores(parsed, [None] * len(parsed), {"without_gold": len(parsed), "read": read})
