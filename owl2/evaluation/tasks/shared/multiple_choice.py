"""What the multiple-choice benchmarks share: options as lines, the instruction, the letter of an answer (specification,
4 to 8 and 13).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase

from owl2.evaluation.task import Scores

ANSWER_WITH_LETTER = "Answer with the option's letter from the given choices directly."
OWL2_ANSWER_WITH_LETTER = ANSWER_WITH_LETTER.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}")
"""Of the official scripts (specification, 6.2)."""


def lettered(texts: Iterable[str]) -> dict[str, str]:
    """The texts by the letters A, B, C, ..."""
    return dict(zip(ascii_uppercase, texts, strict=False))


def option_lines(options: Mapping[str, str]) -> str:
    """`A. text`, one line each."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


def owl2_prompt(hint: str, question: str, options: Mapping[str, str]) -> str:
    """The prompt of the official scripts: hint or `N/A`, question, options, instruction (specification, 6.2)."""
    return f"{hint or 'N/A'}\n{question}\n{option_lines(options)}\n{OWL2_ANSWER_WITH_LETTER}"


def first_option(text: str, letters: str) -> str:
    """The letter that an answer names: behind "answer is", standing alone, or the first there is; "" without one.

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
    """Of a split whose answers only the benchmark's server knows: no score, but how many predictions were read."""
    read = sum(letter is not None for letter in parsed)
    return Scores(parsed, [None] * len(parsed), {"without_gold": len(parsed), "read": read})
