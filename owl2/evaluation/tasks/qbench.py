"""Q-Bench: low-level perception (A1) and, optionally, quality scores of images (A3) (specification, 8)."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from owl2.evaluation.metrics import qbench_choice
from owl2.evaluation.task import Decoding, Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.common import means_by
from owl2.evaluation.tasks.shared.correlation import pearson, spearman
from owl2.evaluation.tasks.shared.multiple_choice import ANSWER_WITH_LETTER, option_lines, without_answers
from owl2.evaluation.tasks.shared.qbench_files import (
    DATABASES,
    PerceptionRow,
    perception_files,
    perception_rows,
    quality_file,
    quality_rows,
)

_TYPES = {0: "yes_or_no", 1: "what", 2: "how"}
_CONCERNS = {0: "distortion", 1: "others", 2: "in_context_distortion", 3: "in_context_others"}

_A1_PROMPTS = ("q_instruct", "llava")
_A3_PROMPTS = ("quality", "quality_direct")
_A1_PROTOCOLS = ("first_letter", "anywhere")
_A3_SPLITS = tuple(f"a3_{name}" for name in DATABASES)

_QUALITY = "Rate the quality of the image."
_OPENING = {"quality": " The quality of the image is", "quality_direct": ""}  # of the answer
_TEMPERATURE = 100  # by which the logits are divided


def _files(root: Path, split: str) -> list[Path]:
    return [quality_file(root, split)] if split in _A3_SPLITS else perception_files(root, split)


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    if split in _A3_SPLITS:
        return [
            Sample(
                id=row.name,
                prompt=_QUALITY,
                gold=row.score,
                images=(row.image,),
                choices=tuple(f"{_OPENING[prompt]} {word}" for word in ("good", "poor")),
                details={"database": split.removeprefix("a3_")},
            )
            for row in quality_rows(root, split)
        ]
    return [_perception_sample(row, prompt) for row in perception_rows(root, split)]


def _perception_sample(row: PerceptionRow, prompt: str) -> Sample:
    options = option_lines(row.options)
    asked = {
        "q_instruct": f"{row.question}\n{options}\n{ANSWER_WITH_LETTER}\n",
        "llava": f"{row.question}\nChoose between one of the options as follows:\n{options}\n",
    }[prompt]
    kinds = {"type": _TYPES[row.type], "concern": _CONCERNS[row.concern]}
    return Sample(row.id, asked, row.answer, (row.image,), details={"options": row.options, **kinds, "file": row.cells})


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    if protocol == "quality":
        return _quality_scores(records)
    parsed = [qbench_choice(record.answer, record.details["options"]) for record in records]
    if all(record.gold is None for record in records):
        return without_answers(parsed)
    if protocol == "anywhere":  # the script of Q-Instruct: "D. Average" is right for D and for A
        correct = [float(record.gold in record.answer) for record in records]
    else:
        correct = [float(letter == record.gold) for letter, record in zip(parsed, records, strict=True)]
    summary = {
        "accuracy": fmean(correct),
        "undecided": parsed.count(None),
        "per_type": means_by([record.details["type"] for record in records], correct),
        "per_concern": means_by([record.details["concern"] for record in records], correct),
    }
    return Scores(parsed, correct, summary)


def _quality_scores(records: Sequence[Prediction]) -> Scores:
    """Correlates the probability of "good" against "poor" with the mean opinion scores."""
    qualities = []
    for record in records:
        good, poor = record.ranking.log_probabilities
        qualities.append(1 / (1 + math.exp((poor - good) / _TEMPERATURE)))
    opinions = [record.gold for record in records]
    summary = {"srcc": spearman(qualities, opinions), "plcc": pearson(qualities, opinions)}
    return Scores(qualities, [None] * len(records), summary)


def _submission(records: Sequence[Prediction], out: Path) -> Path:
    """The records of the official file, each with the answer as `response`, as Q-Bench's example scripts write them."""
    path = out / "qbench.json"
    answered = [{**record.details["file"], "response": record.answer} for record in records]
    path.write_text(json.dumps(answered, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


TASK = Task(
    name="qbench",
    title="Q-Bench",
    splits=("dev", "test", *_A3_SPLITS),
    prompts=(*_A1_PROMPTS, *_A3_PROMPTS),
    protocols=(*_A1_PROTOCOLS, "quality"),
    prompts_of={"dev": _A1_PROMPTS, "test": _A1_PROMPTS, **dict.fromkeys(_A3_SPLITS, _A3_PROMPTS)},
    protocols_of={**dict.fromkeys(_A1_PROMPTS, _A1_PROTOCOLS), **dict.fromkeys(_A3_PROMPTS, ("quality",))},
    files=_files,
    load=_load,
    score=_score,
    primary_metric="accuracy",
    download_hint="Put llvisionqa_{dev,test}.json and images/ of nanyangtu/LLVisionQA-QBench, or the parquet files of "
    "q-future/Q-Bench-HF, into qbench/; for A3 the JSON files of Q-Future/Q-Bench (a3_iqa_databases/jsons) into "
    "qbench/a3/ and the images of each database into qbench/a3/<database>/.",
    decoding={"": Decoding(max_new_tokens=10)},
    aspect="crop",  # the scripts skip the square step, so that CLIP's own processor crops
    suffix="",  # the conversation template ends without a space
    submission=_submission,
    submitted_splits=("dev", "test"),
    paper_results={
        ("paper_table_2", "qbench"): "accuracy",
        ("readme", "qbench"): "accuracy",
        ("supplement_table_6", "overall"): "accuracy",
        **{("supplement_table_6", name): f"per_type.{name}" for name in _TYPES.values()},
        **{("supplement_table_6", name): f"per_concern.{name}" for name in _CONCERNS.values()},
    },
    not_comparable={
        "dev": "the paper reports test, whose answers are not public; this is dev",
        **dict.fromkeys(_A3_SPLITS, "the paper does not report A3"),
    },
)
