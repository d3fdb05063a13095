"""Questions to a judge in MM-Vet, MMHal-Bench, video question answering and MMBench (specification, 6.4, 10 to 12).

Prompts are files under `owl2/evaluation/prompts`, in our own words; their README says what is official in them. Each
function takes another `prompt`, such as the official one from a file.
"""

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from owl2.evaluation.metrics.judged import mmhal_ratings, mmvet_score, video_judge_reply
from owl2.evaluation.metrics.mmbench import REFUSAL, mmbench_choice

from .judge import JudgeItem
from .request import Ask, JudgeMessage

# The models that the benchmarks' programs name.
MMVET_JUDGE, MMHAL_JUDGE, VIDEO_JUDGE = "gpt-4-0613", "gpt-4-0314", "gpt-3.5-turbo"
MMVET_RUNS = 5  # the paper's setting

_MMVET_TEMPERATURES = (0.0, 0.0, 0.5, 1.0, 1.5)
_MMVET_TOKENS = 3
_MMVET_AGAIN = "\nPredict the correctness of the answer (digit): "
_VIDEO_ATTEMPTS = 5  # without limit in Video-ChatGPT
_MMBENCH_ATTEMPTS = 3
_SLOT = re.compile(r"\{(\w+)\}")


def read_prompt(name: str, directory: Path | None = None) -> str:
    """The text of a prompt file without its last line end: that of the directory if it has one, otherwise ours.

    Raises:
        ValueError: It is not a directory, or its file is not UTF-8.
    """
    if directory is not None and not directory.is_dir():
        raise ValueError(f"the judge's prompts are to be in {directory}, which is not a directory")
    if directory is not None and (own := directory / f"{name}.txt").is_file():
        try:
            return own.read_text(encoding="utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{own} is not UTF-8 at byte {error.start}") from error
    file = resources.files("owl2.evaluation").joinpath("prompts", f"{name}.txt")
    return file.read_text(encoding="utf-8").removesuffix("\n")


def mmvet_item(
    sample_id: str, question: str, gold: str, prediction: str, prompt: str | None = None
) -> JudgeItem[float]:
    """Correctness, 0 to 1, of an MM-Vet prediction.

    A reply without a number is asked for again four times, with another line and rising temperature; then it is 0. The
    official evaluator sends a sixth request, whose reply it does not read.

    Args:
        gold: Answer with the markers <AND> and <OR> of the benchmark's file.
        prompt: The table that the row to fill is appended to.
    """
    spaced = gold.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    table = read_prompt("mmvet") if prompt is None else prompt
    first = f"{table}\n{question} | {spaced} | {prediction} | "
    texts = [first, *(first + _MMVET_AGAIN for _ in _MMVET_TEMPERATURES[1:])]
    asks = (
        Ask((_user(text),), temperature, _MMVET_TOKENS)
        for text, temperature in zip(texts, _MMVET_TEMPERATURES, strict=True)
    )
    return JudgeItem(sample_id, tuple(asks), mmvet_score, fallback=0.0)


def mmhal_item(
    sample_id: str,
    image_content: Sequence[str],
    question: str,
    reference: str,
    response: str,
    prompt: str | None = None,
) -> JudgeItem[int]:
    """Rating, 0 to 6, of an MMHal-Bench response. It is asked for once; a reply without one rating is 0.

    Raises:
        ValueError: `prompt` lacks one of the slots {image_content}, {question}, {reference}, {response}.
    """
    text = _fill(
        read_prompt("mmhal") if prompt is None else prompt,
        image_content=", ".join(image_content),
        question=question,
        reference=reference,
        response=response,
    )
    return JudgeItem(sample_id, (Ask((_user(text),)),), _mmhal_rating, fallback=0)


def video_item(
    sample_id: str,
    question: str,
    answer: str,
    prediction: str,
    system: str | None = None,
    prompt: str | None = None,
) -> JudgeItem[tuple[str, int]]:
    """Verdict and score, 0 to 5, of a prediction about a video, at the endpoint's own temperature.

    A reply that is not a dictionary is asked for again, five times in all; then it is ("no", 0).

    Raises:
        ValueError: `prompt` lacks one of the slots {question}, {answer}, {prediction}.
    """
    text = _fill(
        read_prompt("video_qa_user") if prompt is None else prompt,
        question=question,
        answer=answer,
        prediction=prediction,
    )
    role = {"role": "system", "content": read_prompt("video_qa_system") if system is None else system}
    ask = Ask((role, _user(text)), temperature=None)
    return JudgeItem(sample_id, (ask,) * _VIDEO_ATTEMPTS, video_judge_reply, fallback=("no", 0))


def mmbench_item(
    sample_id: str, question: str, options: Mapping[str, str], answer: str, prompt: str | None = None
) -> JudgeItem[str]:
    """The option, or "Z", that an answer means which `mmbench_choice` could not decide.

    A reply that names none is asked for again, three times in all; then it is "Z", which is never right, where the
    reference draws an option by chance.

    Raises:
        ValueError: `prompt` lacks one of the slots {question}, {options}, {answer}.
    """
    listed = "\n".join(f"{letter}. {text}" for letter, text in options.items())
    text = _fill(read_prompt("mmbench") if prompt is None else prompt, question=question, options=listed, answer=answer)
    ask = Ask((_user(text),))
    return JudgeItem(
        sample_id, (ask,) * _MMBENCH_ATTEMPTS, lambda reply: mmbench_choice(reply, options), fallback=REFUSAL
    )


def _user(text: str) -> JudgeMessage:
    return {"role": "user", "content": text}


def _fill(template: str, **values: str) -> str:
    """The template with its slots filled in one pass: braces in a value stay as they are."""
    lacking = sorted(set(values) - set(_SLOT.findall(template)))
    if lacking:
        raise ValueError(f"the judge's prompt lacks the slots {lacking}: {template!r:.200}")
    return _SLOT.sub(lambda slot: values.get(slot[1], slot[0]), template)


def _mmhal_rating(reply: str) -> int | None:
    """The rating of `mmhal_score`, but `None` where that warns and gives 0, so that it is counted."""
    ratings = mmhal_ratings(reply)
    return ratings[0] if len(ratings) == 1 else None
