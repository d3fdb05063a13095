"""MMLU, 5-shot: 57 subjects, four choices (specification, 13.1)."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from owl2.evaluation.metrics import mmlu_scores
from owl2.evaluation.metrics.mmlu import MMLU_GROUPS
from owl2.evaluation.task import Decoding, Prediction, Sample, Scores, Task, Turn
from owl2.evaluation.tasks.shared.common import naming_file_errors
from owl2.evaluation.tasks.shared.multiple_choice import first_option
from owl2.evaluation.tasks.shared.ranking import likeliest, likeliest_sequence

SUBJECTS = tuple(sorted(subject for subjects in MMLU_GROUPS.values() for subject in subjects))
SHOTS = 5
LETTERS = "ABCD"

_RANKED = ("opencompass2023", "classic")
_GENERATED = ("opencompass2023_gen", "opencompass_gen")


class MmluQuestion(NamedTuple):
    """A row of a file of the benchmark."""

    text: str
    choices: tuple[str, ...]
    answer: str

    def written(self) -> str:
        return "\n".join(
            [self.text, *(f"{letter}. {text}" for letter, text in zip(LETTERS, self.choices, strict=True))]
        )


def _file(root: Path, subject: str, split: str) -> Path:
    return root / "mmlu" / split / f"{subject}_{split}.csv"


def _files(root: Path, split: str) -> list[Path]:
    return [_file(root, subject, part) for subject in SUBJECTS for part in ("dev", split)]


def read_questions(path: Path) -> list[MmluQuestion]:
    """The questions of a CSV file without a header: question, four choices, letter of the answer.

    Raises:
        ValueError: Naming the file and the line.
    """
    found = []
    with path.open(encoding="utf-8", newline="") as file, naming_file_errors(path):
        reader = csv.reader(file)
        for row in reader:
            if len(row) != 6 or row[5].strip() not in [*LETTERS]:
                raise ValueError(
                    f"{path}, line {reader.line_num}: expected a question, four choices and a letter A to D, found "
                    f"{row!r:.200}"
                )
            found.append(MmluQuestion(row[0], tuple(row[1:5]), row[5].strip()))
    return found


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    return [sample for subject in SUBJECTS for sample in _subject(root, subject, split, prompt)]


def _subject(root: Path, subject: str, split: str, prompt: str) -> list[Sample]:
    shots = read_questions(_file(root, subject, "dev"))[:SHOTS]
    if len(shots) != SHOTS:
        raise ValueError(f"{_file(root, subject, 'dev')} has {len(shots)} questions, fewer than the {SHOTS} shots")
    write = _generated if prompt == "generate" else _ranked
    questions = read_questions(_file(root, subject, split))
    return [write(subject, shots, question, f"{subject}-{number}") for number, question in enumerate(questions)]


def _ranked(subject: str, shots: Sequence[MmluQuestion], question: MmluQuestion, name: str) -> Sample:
    """The layout of the original repository, whose header has two spaces before the subject."""
    return Sample(
        id=name,
        preamble=f"The following are multiple choice questions (with answers) about  {_title(subject)}.\n\n",
        shots=tuple(f"{shot.written()}\nAnswer: {shot.answer}\n\n" for shot in shots),
        prompt=f"{question.written()}\nAnswer:",
        choices=tuple(f" {letter}" for letter in LETTERS),
        gold=question.answer,
        uses_chat_template=False,
        details={"subject": subject},
    )


def _generated(subject: str, shots: Sequence[MmluQuestion], question: MmluQuestion, name: str) -> Sample:
    """OpenCompass' instruction, in a turn for each shot and for the question."""
    hint = f"There is a single choice question about {_title(subject)}. Answer the question by replying A, B, C or D."

    def with_instruction(each: MmluQuestion) -> str:
        return f"{hint}\nQuestion: {each.written()}\nAnswer: "

    return Sample(
        id=name,
        shots=tuple(Turn(with_instruction(shot), shot.answer) for shot in shots),
        prompt=with_instruction(question),
        gold=question.answer,
        details={"subject": subject},
    )


def _title(subject: str) -> str:
    return subject.replace("_", " ")


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    parsed = [_parsed(record, protocol) for record in records]
    right = [letter == record.gold for letter, record in zip(parsed, records, strict=True)]
    correct: dict[str, list[bool]] = {}
    for is_right, record in zip(right, records, strict=True):
        correct.setdefault(record.details["subject"], []).append(is_right)
    grouping = "classic" if protocol == "classic" else "opencompass2023"
    summary = dict(mmlu_scores(correct, grouping))
    summary = {"accuracy": summary["micro" if protocol == "classic" else "macro"], **summary}
    return Scores(parsed, [float(is_right) for is_right in right], summary)


def _parsed(record: Prediction, protocol: str) -> str:
    """The letter chosen; in a generated answer, its first capital letter or the first option that it names, if any."""
    if protocol == "opencompass2023_gen":
        return next((character for character in record.answer if character.isupper()), "")
    if protocol == "opencompass_gen":
        return first_option(record.answer, LETTERS)
    choose = likeliest if protocol == "classic" else likeliest_sequence
    return LETTERS[choose(record.ranking)]


TASK = Task(
    name="mmlu",
    title="MMLU",
    splits=("test", "val"),
    prompts=("rank", "generate"),
    protocols=(*_RANKED, *_GENERATED),
    protocols_of={"rank": _RANKED, "generate": _GENERATED},
    files=_files,
    load=_load,
    score=_score,
    primary_metric="accuracy",
    download_hint="Unpack data.tar of hendrycks/test (https://people.eecs.berkeley.edu/~hendrycks/data.tar) so that "
    "mmlu/{dev,val,test}/SUBJECT_{dev,val,test}.csv exist.",
    decoding={"": Decoding(max_new_tokens=10)},
    counts={"test": 14042},
    paper_results={("paper_table_3", "mmlu"): "accuracy", ("readme", "mmlu"): "accuracy"},
    not_comparable={
        "test": "the paper's Table 10 says dev, which holds only the shots; this is test, as in OpenCompass, whose "
        "numbers its Table 3 has for LLaMA-2",
        "val": "this is val; OpenCompass, whose numbers the paper's Table 3 has for LLaMA-2, reads test",
    },
)
