"""POPE: is an object in the picture? Three ways of choosing the absent objects (specification, 9)."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from owl2.data.annotations import line_rows
from owl2.evaluation.metrics import pope_answer, pope_scores
from owl2.evaluation.task import Decoding, Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.common import SHORT_ANSWER, coco_val2014

SUBSETS = ("random", "popular", "adversarial")

_JOINT = {"newline": "\n", "space": " "}


def _file(root: Path, subset: str) -> Path:
    return root / "pope" / f"coco_pope_{subset}.json"


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    samples = []
    for subset in SUBSETS:
        for _, row in line_rows(_file(root, subset)):
            label = row.text("label")
            if label not in ("yes", "no"):
                raise row.error(f"'label' is {label!r}, not yes or no")
            samples.append(
                Sample(
                    id=f"{subset}-{row.integer('question_id')}",  # ids start again in each file
                    prompt=row.text("text") + _JOINT[prompt] + SHORT_ANSWER,
                    gold=label,
                    images=(coco_val2014(root, row.text("image"), row),),
                    details={"subset": subset},
                )
            )
    return samples


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    parsed = [pope_answer(record.answer) for record in records]
    summary: dict[str, object] = {}
    for subset in SUBSETS:
        own = [index for index, record in enumerate(records) if record.details["subset"] == subset]
        if own:
            summary[subset] = pope_scores([records[i].answer for i in own], [records[i].gold for i in own])
    found = [scores for scores in summary.values() if isinstance(scores, dict)]
    for measure in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        summary[measure] = fmean(scores[measure] for scores in found)  # unweighted
    correct = [float(answer == record.gold) for answer, record in zip(parsed, records, strict=True)]
    return Scores(parsed, correct, summary)


TASK = Task(
    name="pope",
    title="POPE",
    splits=("coco",),
    prompts=("newline", "space"),
    protocols=("pope_official",),
    files=lambda root, split: [_file(root, subset) for subset in SUBSETS],
    load=_load,
    score=_score,
    primary_metric="f1",
    download_hint="Put coco_pope_{random,popular,adversarial}.json of RUCAIBox/POPE (output/coco) into pope/, "
    "and COCO's val2014 images into coco/val2014/.",
    decoding={"": Decoding(max_new_tokens=10)},
    counts={"coco": 9000},
    paper_results={
        ("supplement_table_3", f"{subset}.{measure}"): f"{subset}.{measure}"
        for subset in SUBSETS
        for measure in ("accuracy", "precision", "recall", "f1", "yes_ratio")
    },
    not_comparable={"newline": "the paper's prompt is not published: this is LLaVA's"},
)
