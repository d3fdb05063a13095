"""GQA: compositional questions about pictures, exact match on the balanced test-dev questions (specification, 3)."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from owl2.data.annotations import Row, image_path, keyed_rows
from owl2.evaluation.metrics import gqa_match
from owl2.evaluation.metrics.gqa import gqa_answer
from owl2.evaluation.task import Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.common import means_by
from owl2.evaluation.tasks.shared.vqa import DECODING, with_instruction

_STRUCTURAL = ("query", "verify", "logical", "choose", "compare")
_SEMANTIC = ("obj", "attr", "cat", "rel", "global")
_NO_STEPS = ("exist", "query: name", "choose name")


def _files(root: Path, split: str) -> list[Path]:
    return [root / "gqa" / "testdev_balanced_questions.json"]


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    (file,) = _files(root, split)
    return [_sample(root, name, row, prompt) for name, row in keyed_rows(file) if row.boolean("isBalanced")]


def _sample(root: Path, name: str, row: Row, prompt: str) -> Sample:
    image, question = row.text("imageId"), row.text("question")
    return Sample(
        id=name,
        prompt=with_instruction(question, prompt),
        gold=row.text("answer"),
        images=(Path(image_path(root / "gqa" / "images", f"{image}.jpg", row)),),
        details={
            "structural": _type(row, "structural", _STRUCTURAL),
            "semantic": _type(row, "semantic", _SEMANTIC),
            "group": _group(row),
            "words": len(question.split()),
            "steps": _steps(row),
        },
    )


def _object(row: Row, name: str) -> Row:
    return Row(row.values.get(name), f"{row.where}, {name}")


def _group(row: Row) -> str | None:
    """The global group, if the question has one."""
    groups = _object(row, "groups")
    return None if groups.values.get("global") is None else groups.text("global")


def _type(row: Row, name: str, known: Sequence[str]) -> str:
    types = _object(row, "types")
    if (found := types.text(name)) not in known:
        raise types.error(f"{name!r} is {found!r}, not one of {', '.join(known)}")
    return found


def _steps(row: Row) -> int:
    """The number of reasoning steps, without those that only check whether something exists or ask for its name."""
    steps = [f"{step.string('operation')}: {step.string('argument')}" for step in row.rows("semantic")]
    return sum(not any(part in step for part in _NO_STEPS) for step in steps)


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    parsed = [gqa_answer(record.answer, protocol) for record in records]
    correct = [float(gqa_match(record.answer, record.gold, protocol)) for record in records]
    kinds = ["open" if record.details["structural"] == "query" else "binary" for record in records]
    summary: dict[str, Any] = {"accuracy": fmean(correct), **means_by(kinds, correct)}
    for name in ("structural", "semantic", "words", "steps"):
        summary[f"per_{name}"] = means_by([record.details[name] for record in records], correct)
    summary["distribution"] = _distribution(records, parsed)
    return Scores(parsed, correct, summary)


def _distribution(records: Sequence[Prediction], parsed: Sequence[str]) -> float | None:
    """Chi-square between given and right answers, by global group, weighted by its questions; over 100. 0 is best."""
    right: dict[str, Counter[str]] = defaultdict(Counter)
    given: dict[str, Counter[str]] = defaultdict(Counter)
    for record, answer in zip(records, parsed, strict=True):
        if (group := record.details["group"]) is not None:
            right[group][record.gold] += 1
            given[group][answer] += 1
    if not right:
        return None
    total = sum(
        counts.total() * sum((given[group][answer] - count) ** 2 / count for answer, count in counts.items())
        for group, counts in right.items()
    )
    return total / sum(counts.total() for counts in right.values()) / 100


TASK = Task(
    name="gqa",
    title="GQA",
    splits=("testdev-balanced",),
    prompts=("space", "newline"),
    protocols=("llava", "official", "qwen", "lmms"),
    files=_files,
    load=_load,
    score=_score,
    primary_metric="accuracy",
    download_hint="Put testdev_balanced_questions.json of cs.stanford.edu/people/dorarad/gqa into gqa/, and the "
    "images of the same page into gqa/images/.",
    decoding={"": DECODING},
    counts={"testdev-balanced": 12578},
    paper_results={("paper_table_1", "gqa"): "accuracy", ("readme", "gqa"): "accuracy"},
    not_comparable={
        "testdev-balanced": "the paper says test-balanced, this is testdev-balanced",
        "space": "the paper's prompt is not published: this is that of its other VQA benchmarks",
    },
)
