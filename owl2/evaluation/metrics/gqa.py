"""GQA: whether a prediction is the one right answer.

The official program compares the strings as they are; those who publish numbers normalise first, each in their way.

Source: evaluation specification, section 3.
"""

import string

from .protocols import chosen_protocol

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def gqa_match(prediction: str, answer: str, protocol: str = "llava") -> bool:
    """Whether a prediction counts as the answer.

    Args:
        prediction: The answer of the model, as generated.
        answer: The answer in the question file, one or two words in lower case.
        protocol:
            `llava`: the prediction without the periods at its end, in lower case, is the answer.
            `official`: the prediction is the answer, with no normalisation at all.
            `qwen`: the prediction is cut down to its presumed core first: its first clause in lower case, what follows
            `is `, `are `, `a `, `an `, `the ` in turn, and of that what precedes ` of`. Case of the answer and white
            space around both are ignored.
            `lmms`: equal but for case and ASCII punctuation; white space around the prediction is ignored.

    Raises:
        ValueError: Unknown protocol.

    Source: evaluation specification, section 3 (convert_gqa_for_eval of LLaVA, eval_mm of Qwen-VL, lmms-eval).
    """
    of_answer = chosen_protocol(_PROTOCOLS, protocol)[1]
    return gqa_answer(prediction, protocol) == of_answer(answer)


def gqa_answer(prediction: str, protocol: str = "llava") -> str:
    """The prediction in the form in which `gqa_match` compares it.

    Raises:
        ValueError: Unknown protocol.
    """
    of_prediction = chosen_protocol(_PROTOCOLS, protocol)[0]
    return of_prediction(prediction)


def _as_it_is(text: str) -> str:
    return text


def _llava(prediction: str) -> str:
    return prediction.rstrip(".").lower()


def _bare(answer: str) -> str:
    return answer.strip().lower()


def _lmms(prediction: str) -> str:
    return _no_punctuation(prediction.strip())


def _no_punctuation(answer: str) -> str:
    return answer.lower().translate(_NO_PUNCTUATION)


def _qwen_core(prediction: str) -> str:
    """The piece of the first clause that follows a verb or an article.

    The markers are looked for as substrings, so `pizza box` loses its `pizza `, and `This is a box`, where `is ` is
    met first inside `This `, becomes empty: published numbers contain both.
    """
    core = prediction.strip()
    for mark in ".,!":
        core = core.split(mark)[0]
    core = core.lower()
    for marker in ("is ", "are ", "a ", "an ", "the "):
        if marker in core:
            core = core.split(marker)[1]  # up to the next occurrence, as the original does
    return core.split(" of")[0].strip()


# What becomes of the prediction, and of the answer.
_PROTOCOLS = {
    "llava": (_llava, _as_it_is),
    "official": (_as_it_is, _as_it_is),
    "qwen": (_qwen_core, _bare),
    "lmms": (_lmms, _no_punctuation),
}
