"""ScienceQA-IMG: school questions with an image, 2 to 5 choices (specification, 4)."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from string import ascii_uppercase

from owl2.data.annotations import Row, image_path, keyed_rows, read_json
from owl2.evaluation.metrics import scienceqa_choice
from owl2.evaluation.task import Decoding, Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.common import means_by, verbatim
from owl2.evaluation.tasks.shared.multiple_choice import ANSWER_WITH_LETTER, lettered, option_lines, owl2_prompt

_SUBJECTS = ("natural science", "social science", "language science")
_GRADE = re.compile(r"grade(\d+)")
_LAST_LOWER_GRADE = 6


def _files(root: Path, split: str) -> list[Path]:
    return [root / "scienceqa" / name for name in ("problems.json", "pid_splits.json")]


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    return [_sample(root, split, prompt, pid, row) for pid, row in _problems(root, split)]


def _problems(root: Path, split: str) -> Iterator[tuple[str, Row]]:
    """The problems of a split that have an image: the field says so, not a prompt that was made of it."""
    problems, splits = _files(root, split)
    rows = dict(keyed_rows(problems))
    ids = Row(read_json(splits), str(splits))
    for pid in ids.texts(split):
        if pid not in rows:
            raise ids.error(f"{split!r} names the problem {pid!r}, which is not in {problems}")
        if rows[pid].text("split") != split:
            raise rows[pid].error(f"'split' is {rows[pid].text('split')!r}, but {splits} has the problem in {split!r}")
        if "image" not in rows[pid].values:
            raise rows[pid].error("has no 'image', which should be null where a question has no image")
        if rows[pid].values["image"] is not None:
            yield pid, rows[pid]


def _sample(root: Path, split: str, prompt: str, pid: str, row: Row) -> Sample:
    choices, answer, grade = row.texts("choices"), row.integer("answer"), _GRADE.fullmatch(row.text("grade"))
    if not 2 <= len(choices) <= 5 or not 0 <= answer < len(choices):
        raise row.error(f"{len(choices)} choices with the answer {answer}: expected 2 to 5, one of them right")
    if grade is None:
        raise row.error(f"'grade' is {row.text('grade')!r}, not such as 'grade7'")
    if row.text("subject") not in _SUBJECTS:
        raise row.error(f"'subject' is {row.text('subject')!r}, not one of {', '.join(_SUBJECTS)}")
    hint = row.string("hint")
    return Sample(
        id=pid,
        prompt=_prompt(prompt, hint, verbatim(row, "question"), lettered(row.items("choices"))),
        gold=answer,
        images=(Path(image_path(root / "scienceqa" / "images" / split / pid, row.text("image"), row)),),
        choices=tuple(f" {letter}" for letter in ascii_uppercase[: len(choices)]) if prompt == "qwen" else (),
        uses_chat_template=prompt != "qwen",
        details={
            "choices": len(choices),
            "subject": row.text("subject"),
            "has_hint": bool(hint),
            "grade": int(grade[1]),
        },
    )


def _prompt(name: str, hint: str, question: str, options: dict[str, str]) -> str:
    if name == "owl2":
        return owl2_prompt(hint, question, options)
    if name == "llava":
        context = f"Context: {hint}\n" if hint else ""
        return f"{context}{question}\n{option_lines(options)}\n{ANSWER_WITH_LETTER}"
    return f"Context: {hint or 'N/A'}\nQuestion: {question}\nOptions: {option_lines(options)}\nAnswer:"


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    parsed = [
        record.ranking.best()
        if protocol == "likelihood"
        else scienceqa_choice(record.answer, record.details["choices"], protocol)
        for record in records
    ]
    correct = [float(choice == record.gold) for choice, record in zip(parsed, records, strict=True)]
    summary = {
        "accuracy": fmean(correct),
        "failed": sum(choice is None for choice in parsed),
        "per_subject": means_by([record.details["subject"] for record in records], correct),
        "per_context": means_by(
            ["text and image" if record.details["has_hint"] else "image" for record in records], correct
        ),
        "per_grade": means_by(
            ["1-6" if record.details["grade"] <= _LAST_LOWER_GRADE else "7-12" for record in records], correct
        ),
    }
    return Scores(parsed, correct, summary)


TASK = Task(
    name="scienceqa",
    title="ScienceQA-IMG",
    splits=("test", "val"),
    prompts=("owl2", "llava", "qwen"),
    protocols=("lmms", "llava", "likelihood"),
    protocols_of={"owl2": ("lmms", "llava"), "llava": ("lmms", "llava"), "qwen": ("likelihood",)},
    files=_files,
    load=_load,
    score=_score,
    primary_metric="accuracy",
    download_hint="Put problems.json and pid_splits.json of lupantech/ScienceQA (data/scienceqa) into scienceqa/, "
    "and its images into scienceqa/images/{test,val}/<problem>/image.png.",
    decoding={"": Decoding(max_new_tokens=10)},
    counts={"test": 2017},
    paper_results={("paper_table_1", "scienceqa_img"): "accuracy", ("readme", "scienceqa_img"): "accuracy"},
    not_comparable={
        "val": "the paper reports test, this is val",
        "owl2": "the paper's prompt is not published: this is that of its other multiple-choice benchmarks",
    },
)
