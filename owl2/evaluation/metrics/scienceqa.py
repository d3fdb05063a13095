"""ScienceQA: the choice that a reply names.

Source: evaluation specification, section 4.
"""

import re
from string import ascii_uppercase

from .protocols import chosen_protocol

_LLAVA_LETTERS = tuple("ABCDE")
_LLAVA_SENTENCE = re.compile(r"The answer is ([A-Z]).")  # any character but a line break must follow, not a period


def scienceqa_choice(prediction: str, num_choices: int, protocol: str = "lmms") -> int | None:
    """The index of the choice that a reply names, from 0.

    Args:
        prediction: The reply of the model, as generated.
        num_choices: How many choices the question has (2 to 5 in ScienceQA).
        protocol:
            `lmms`: white space around the reply is ignored; a letter alone, in either case, or a capital letter and a
            period at the start (`B. the moon`, `B.`).
            `llava`: the reply is a letter of A-E, or starts with one and `. `, or holds `The answer is X`, followed
            by some character, exactly once. Case and white space count: `b`, `B `, `B.` and `(B)` name nothing.

    Returns:
        The index, or None where the reply names no choice or one that the question does not have: it is wrong.

    Raises:
        ValueError: Unknown protocol, or a number of choices outside 1 to 26.

    Source: evaluation specification, section 4 (eval_science_qa of LLaVA, lmms-eval).
    """
    named_letter = chosen_protocol(_PROTOCOLS, protocol)
    if not 1 <= num_choices <= len(ascii_uppercase):
        raise ValueError(f"num_choices must be from 1 to {len(ascii_uppercase)}, one letter each, got {num_choices}")
    letter = named_letter(prediction)
    letters = list(ascii_uppercase[:num_choices])
    return letters.index(letter) if letter in letters else None


def _lmms(prediction: str) -> str | None:
    reply = prediction.strip()
    if len(reply) == 1 or (reply[:1].isupper() and reply[1] == "."):
        return reply[0].upper()
    return None


def _llava(prediction: str) -> str | None:
    if prediction in _LLAVA_LETTERS:
        return prediction
    if len(prediction) >= 3 and prediction[0] in _LLAVA_LETTERS and prediction[1:3] == ". ":
        return prediction[0]
    sentences = _LLAVA_SENTENCE.findall(prediction)
    return sentences[0] if len(sentences) == 1 and sentences[0] in _LLAVA_LETTERS else None


_PROTOCOLS = {"lmms": _lmms, "llava": _llava}
