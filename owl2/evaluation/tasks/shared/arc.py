"""ARC, zero-shot: science questions of two difficulties (specification, 13.4)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from owl2.data.annotations import Row, line_rows
from owl2.evaluation.task import Decoding, Prediction, Sample, Scores, Task

from .multiple_choice import first_option
from .ranking import likeliest, likeliest_per_character, likeliest_sequence

LETTERS = "ABCDE"

_SPLIT_NAMES = {"dev": "Dev", "test": "Test"}


def _file(difficulty: str, root: Path, split: str) -> Path:
    return root / "arc" / f"ARC-{difficulty}-{_SPLIT_NAMES[split]}.jsonl"


def _load(difficulty: str, root: Path, split: str, prompt: str) -> list[Sample]:
    return [_sample(row, prompt) for _, row in line_rows(_file(difficulty, root, split))]


def _sample(row: Row, prompt: str) -> Sample:
    question, texts, gold = _question(row)
    named = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))
    written, choices = {
        "letter": (f"{question}\n{named}\nAnswer:", tuple(f" {letter}" for letter in LETTERS[: len(texts)])),
        "text": (f"Question: {question}\nAnswer:", tuple(f" {text}" for text in texts)),
        "generate": (f"Question: {question}\n{named}\nAnswer:", ()),
    }[prompt]
    return Sample(
        id=row.text("id"),
        prompt=written,
        gold=LETTERS[gold],
        choices=choices,
        uses_chat_template=prompt == "generate",
        whole_sequence=prompt == "text",
        details={"choices": len(texts)},
    )


def _question(row: Row) -> tuple[str, list[str], int]:
    """Question, choices and index of the right one, in AI2's form or that of the hub's data set."""
    question = row.values.get("question")
    if isinstance(question, dict):
        inner = Row(question, row.where)
        stem = inner.text("stem")
        choices = inner.rows("choices")
        texts, labels = [choice.text("text") for choice in choices], [choice.text("label") for choice in choices]
    else:
        stem = row.text("question")
        columns = Row(row.values.get("choices"), f"{row.where}, choices")
        texts, labels = ([str(value) for value in columns.items(name)] for name in ("text", "label"))
    key = row.text("answerKey")
    if not 2 <= len(texts) <= len(LETTERS) or len(texts) != len(labels) or labels.count(key) != 1:
        raise row.error(
            f"{len(texts)} choices labelled {labels} with the answer {key!r}: expected 2 to 5, one of them right"
        )
    return stem, texts, labels.index(key)


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    if protocol == "lmeval":
        return _lmeval(records)
    parsed = [_parsed(record, protocol) for record in records]
    # OpenCompass reads only questions with four choices.
    counted = [record.details["choices"] == 4 for record in records]
    scores = [
        float(letter == record.gold) if counts else None
        for letter, record, counts in zip(parsed, records, counted, strict=True)
    ]
    right = [score for score in scores if score is not None]
    if not right:
        raise ValueError(f"no question has four choices, and {protocol} scores no others")
    return Scores(parsed, scores, {"accuracy": fmean(right), "left_out": counted.count(False)})


def _parsed(record: Prediction, protocol: str) -> str:
    if protocol == "oc_gen":
        return first_option(record.answer, "ABCD")
    return LETTERS[likeliest_sequence(record.ranking)]


def _lmeval(records: Sequence[Prediction]) -> Scores:
    parsed = [LETTERS[likeliest(record.ranking)] for record in records]
    correct = [float(letter == record.gold) for letter, record in zip(parsed, records, strict=True)]
    normalized = [LETTERS[likeliest_per_character(record.ranking)] == record.gold for record in records]
    return Scores(parsed, correct, {"accuracy": fmean(correct), "acc_norm": fmean(map(float, normalized))})


def arc_task(name: str, difficulty: str, counts: dict[str, int], measure: str) -> Task:
    """The task of one of the two difficulties, "Challenge" or "Easy"."""
    return Task(
        name=name,
        title=f"ARC-{difficulty}",
        splits=("dev", "test"),
        prompts=("letter", "text", "generate"),
        protocols=("oc_ppl_letter", "oc_ppl_text", "lmeval", "oc_gen"),
        protocols_of={
            "letter": ("oc_ppl_letter",),
            "text": ("oc_ppl_text", "lmeval"),
            "generate": ("oc_gen",),
        },
        files=lambda root, split: [_file(difficulty, root, split)],
        load=partial(_load, difficulty),
        score=_score,
        primary_metric="accuracy",
        download_hint=f"Put ARC-{difficulty}-{{Dev,Test}}.jsonl of AI2's ARC-V1-Feb2018 into arc/.",
        decoding={"": Decoding(max_new_tokens=50)},
        counts=counts,
        paper_results={("paper_table_3", measure): "accuracy", ("readme", measure): "accuracy"},
        not_comparable={
            "dev": "the paper's Table 10 says test, this is dev, as in OpenCompass, whose numbers its Table 3 has for "
            "LLaMA-2",
            "test": "test as the paper's Table 10 says; OpenCompass, whose numbers its Table 3 has for LLaMA-2, reads "
            "dev",
        },
    )
