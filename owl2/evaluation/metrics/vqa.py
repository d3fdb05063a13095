"""Accuracy of short answers against ten human ones: VQAv2, OK-VQA, TextVQA, VizWiz.

A prediction is right as far as humans agree with it: leave one human out, count how many of the others gave this
answer, divide by 3 and stop at 1; the accuracy is the mean over whom is left out, so that k equal answers of ten give
0, 0.3, 0.6, 0.9, 1, 1, ... The programs that score these benchmarks differ in what they do to the texts before they
compare them. Each is a protocol here, its oddities included, because published numbers contain them.

Source: evaluation specification, sections 2.1-2.3.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .protocols import chosen_protocol

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_AROUND_COMMA = re.compile(r"\d,\d")
_PERIOD_BEFORE_NO_DIGIT = re.compile(r"\.(?!\d)")
_MOST_PERIODS_REMOVED = 32  # the official program passes the flag re.UNICODE, which is 32, where the count goes

_ARTICLES = ("a", "an", "the")
_NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}

_WITHOUT_APOSTROPHE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's
    I'm I've isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't
    should've shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's
    there'd there're there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't
    y'all you'd you'll you're you've
""".split()
_WITHOUT_ONE_OF_TWO = """
    couldn't've hadn't've mightn't've shouldn't've wouldn't've he'd've I'd've it'd've she'd've somebody'd've
    someone'd've something'd've there'd've they'd've we'd've who'd've you'd've y'all'll
""".split()


def _contractions() -> dict[str, str]:
    """The replacements of the official table: contractions that lack one apostrophe, and its oddities.

    Keys with a capital I never match, since the text is lower case by then; they are the table's.
    """
    table = {value.replace("'", ""): value for value in _WITHOUT_APOSTROPHE}
    for value in _WITHOUT_ONE_OF_TWO:
        first, middle, last = value.split("'")
        table |= {f"{first}{middle}'{last}": value, f"{first}'{middle}{last}": value}
    table |= dict.fromkeys(("yall'd've", "y'alld've", "y'all'dve"), "y'all'd've")
    table |= dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at")
    return table | {"let's": "let's", "she's": "she's", "somebody'd": "somebodyd"}


_CONTRACTIONS = _contractions()

# The VizWiz evaluator's copy of the table went through a conversion of quotation marks: most of its values, and most of
# its keys that have apostrophes, have backticks instead. Such keys never match: the punctuation step removes backticks.
# Source: vlm_eval/util/evaluation/vizwiz/eval.py of TRI-ML/vlm-evaluation (specification, 2.2).
_VIZWIZ_INTACT = ("aint", "arent", "cant", "couldve", "couldnt", "weve", "wheres", "whove")
_VIZWIZ_CONTRACTIONS = {
    key: value if key in _VIZWIZ_INTACT else value.replace("'", "`")
    for key, value in _CONTRACTIONS.items()
    if "'" not in key or key in ("couldn'tve", "hadn'tve")
}


def normalize_vqa_answer(text: str) -> str:
    """The official normalisation of VQA answers: first the punctuation step, then digits and articles.

    Punctuation: each of 21 marks is deleted where it touches a space anywhere in the text, or where the text holds
    digit-comma-digit; otherwise it becomes a space. Then the first 32 periods that no digit follows go. Apostrophes,
    colons and `$ % & # *` stay. Digits and articles: lower case, number words up to ten to digits (`none` to 0),
    articles dropped, contractions given their apostrophe, white space to single spaces. The result may be empty.

    Source: evaluation specification, section 2.1 (GT-Vision-Lab VQA).
    """
    return _digits_and_articles(_punctuation(text))


def evalai_answer(text: str) -> str:
    """The answer processor of EvalAI, which TextVQA scores with and submissions to VQAv2 and VizWiz pass through.

    Before the two steps of `normalize_vqa_answer`: lower case, `,` and `?` deleted, a space before each `'s`. As
    commas are gone, a number such as `1,000` does not make the other marks vanish here.

    Source: evaluation specification, section 2.3.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalize_vqa_answer(_one_line(text.strip()))


def vqa_accuracy(prediction: str, answers: Sequence[str | Mapping[str, Any]], protocol: str = "vqa_official") -> float:
    """Accuracy of one prediction against its human answers, in [0, 1].

    Args:
        prediction: The answer of the model, as generated.
        answers: The human answers: strings, or records of the annotation file, of which only `answer` is read.
            Answers are left out by their place, so records need no distinct `answer_id` (the official program, which
            leaves out by equality of whole records, gives the same where they have one).
        protocol:
            `vqa_official` (VQAv2, OK-VQA): both sides normalised, unless the answers are unanimous: then compared as
            they are, case included, but for white space around them.
            `vqa_owl2` (scripts of mPLUG-Owl2 and Qwen-VL): prediction always normalised; answers get the punctuation
            step alone, unless unanimous, and keep their case, number words and articles.
            `vqa_m4c` (TextVQA): both sides through `evalai_answer`; ten answers are required.
            `vizwiz_official` (VizWiz): prediction always normalised, with that evaluator's own table of contractions
            (`dont` becomes ``don`t`` and matches no answer); answers as they are.

    Raises:
        ValueError: Unknown protocol; a prediction that is no string; no answers, or not ten for `vqa_m4c`; an answer
            that is neither a string nor a record with one.

    Source: evaluation specification, section 2.2.
    """
    predicted, references = compared_vqa_answers(prediction, answers, protocol)
    return human_agreement(predicted, references)


def compared_vqa_answers(
    prediction: str, answers: Sequence[str | Mapping[str, Any]], protocol: str = "vqa_official"
) -> tuple[str, list[str]]:
    """Prediction and human answers in the form in which `vqa_accuracy` compares them.

    Raises:
        ValueError: As `vqa_accuracy`.
    """
    prepare = chosen_protocol(_PROTOCOLS, protocol)
    if not isinstance(prediction, str):
        raise ValueError(f"the prediction must be a string, got {prediction!r:.200}")
    return prepare(prediction, _texts(answers))


def human_agreement(predicted: str, references: list[str]) -> float:
    """The accuracy of a prediction against human answers, all in the form in which they are compared.

    Source: evaluation specification, section 2.2.
    """
    matches = [reference == predicted for reference in references]
    return sum(min(1.0, (sum(matches) - match) / 3) for match in matches) / len(matches)


def unanswerable_scores(predictions: Sequence[str], unanswerable: Sequence[bool]) -> dict[str, float]:
    """Scores how well predictions tell which questions have no answer, as VizWiz' program does: `average_precision`
    and `f1` of the prediction "unanswerable", which is compared as in `vizwiz_official`.

    The prediction is yes or no, so the precision-recall curve has two points: the predicted ones, and all. Where no
    question is unanswerable both are 0.

    Raises:
        ValueError: The lists are empty or of different lengths.

    Source: evaluation specification, section 2.2; definition of average precision as in scikit-learn, which that
    program calls.
    """
    if not predictions or len(predictions) != len(unanswerable):
        raise ValueError(f"got {len(predictions)} predictions for {len(unanswerable)} questions: expected one of each")
    predicted = [_vizwiz(text, [])[0] == "unanswerable" for text in predictions]
    positive, found = sum(unanswerable), sum(predicted)
    right = sum(said and is_so for said, is_so in zip(predicted, unanswerable, strict=True))
    if not positive:
        return {"average_precision": 0.0, "f1": 0.0}
    recall, precision = right / positive, right / found if found else 0.0
    share = positive / len(predictions)
    return {"average_precision": recall * precision + (1 - recall) * share, "f1": 2 * right / (positive + found)}


def _texts(answers: Sequence[str | Mapping[str, Any]]) -> list[str]:
    if isinstance(answers, str | Mapping) or not answers:
        raise ValueError(f"answers is a list with at least one human answer, got {answers!r:.200}")
    return [_text(answer, index) for index, answer in enumerate(answers)]


def _text(answer: str | Mapping[str, Any], index: int) -> str:
    text = answer.get("answer") if isinstance(answer, Mapping) else answer
    if not isinstance(text, str):
        raise ValueError(
            f"answer {index} must be a string or a record with a string under 'answer', got {answer!r:.200}"
        )
    return text


def _official(prediction: str, answers: list[str]) -> tuple[str, list[str]]:
    predicted, answers = _one_line(prediction), [_one_line(answer) for answer in answers]
    if len(set(answers)) == 1:
        return predicted, answers
    return normalize_vqa_answer(predicted), [normalize_vqa_answer(answer) for answer in answers]


def _owl2(prediction: str, answers: list[str]) -> tuple[str, list[str]]:
    if len(set(answers)) > 1:
        answers = [_punctuation(answer) for answer in answers]
    return normalize_vqa_answer(_one_line(prediction)), answers


def _m4c(prediction: str, answers: list[str]) -> tuple[str, list[str]]:
    if len(answers) != 10:
        raise ValueError(f"vqa_m4c is defined for exactly ten human answers, got {len(answers)}: {answers!r:.200}")
    return evalai_answer(prediction), [evalai_answer(answer) for answer in answers]


def _vizwiz(prediction: str, answers: list[str]) -> tuple[str, list[str]]:
    return _digits_and_articles(_punctuation(_one_line(prediction)), _VIZWIZ_CONTRACTIONS), answers


_PROTOCOLS = {"vqa_official": _official, "vqa_owl2": _owl2, "vqa_m4c": _m4c, "vizwiz_official": _vizwiz}


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _punctuation(text: str) -> str:
    grouped_number = _DIGITS_AROUND_COMMA.search(text) is not None
    table = {ord(mark): "" if grouped_number or f"{mark} " in text or f" {mark}" in text else " " for mark in _MARKS}
    return _PERIOD_BEFORE_NO_DIGIT.sub("", text.translate(table), count=_MOST_PERIODS_REMOVED)


def _digits_and_articles(text: str, contractions: Mapping[str, str] = _CONTRACTIONS) -> str:
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)
