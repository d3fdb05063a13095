"""MM-Vet: open questions that take several capabilities at once, graded by GPT-4 (specification, 10).

The official evaluator grades five times; every measure is the mean over these runs, with its standard deviation.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from owl2.data.annotations import image_path, keyed_rows
from owl2.evaluation.judge.benchmark_items import MMVET_JUDGE, MMVET_RUNS, mmvet_item
from owl2.evaluation.judge.judge import JudgeItem, mean_and_deviation
from owl2.evaluation.task import Decoding, JudgedScoring, Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.common import only_judged, verbatim

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")

_ENDINGS = {"question": "", "direct": "\nAnswer the question directly. "}
_ID = re.compile(r"v1_\d+")


def _file(root: Path) -> Path:
    return root / "mmvet" / "mm-vet.json"


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    samples = []
    for name, row in keyed_rows(_file(root)):
        if not _ID.fullmatch(name):
            raise row.error(f"the id {name!r:.60} is not v1_ and a number")
        capabilities = row.texts("capability")
        if not capabilities or not set(capabilities) <= set(CAPABILITIES):
            raise row.error(f"'capability' is {capabilities!r:.100}, not some of {', '.join(CAPABILITIES)}")
        question = verbatim(row, "question")
        samples.append(
            Sample(
                id=name,
                prompt=question + _ENDINGS[prompt],
                gold=verbatim(row, "answer"),
                images=(Path(image_path(root / "mmvet" / "images", row.text("imagename"), row)),),
                details={"question": question, "capability": sorted(capabilities, key=CAPABILITIES.index)},
            )
        )
    return samples


def _items(records: Sequence[Prediction], protocol: str, prompts: Mapping[str, str]) -> list[JudgeItem[Any]]:
    return [
        mmvet_item(record.id, record.details["question"], record.gold, record.answer, prompts["mmvet"])
        for record in records
    ]


def _score(records: Sequence[Prediction], runs: Sequence[Mapping[str, float]], protocol: str) -> Scores:
    parsed = [[run[record.id] for run in runs if record.id in run] for record in records]
    judged = [record for record, values in zip(records, parsed, strict=True) if values]
    if not judged:
        raise ValueError(f"MM-Vet: the judge has a value for none of {len(records)} answers")
    total, deviation = _over_runs([record.id for record in judged], runs)
    summary: dict[str, Any] = {"total": total, "deviation": deviation}
    for name, groups in (("capabilities", _by_capability(judged)), ("combinations", _by_combination(judged))):
        measures = {group: _over_runs(ids, runs) for group, ids in groups.items()}
        summary[name] = {group: mean for group, (mean, _) in measures.items()}
        summary[f"{name}_deviations"] = {group: deviation for group, (_, deviation) in measures.items()}
    return Scores(parsed, [fmean(values) if values else None for values in parsed], summary)


def _by_capability(records: Sequence[Prediction]) -> dict[str, list[str]]:
    """The ids of the records that need a capability; a record may need several."""
    groups = {name: [each.id for each in records if name in each.details["capability"]] for name in CAPABILITIES}
    return {name: ids for name, ids in groups.items() if ids}


def _by_combination(records: Sequence[Prediction]) -> dict[str, list[str]]:
    """The ids of the records that need exactly these capabilities, such as `rec_gen`."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for record in records:
        groups["_".join(record.details["capability"])].append(record.id)
    return dict(groups)


def _over_runs(ids: Sequence[str], runs: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Mean and deviation, over the runs, of the mean correctness of these records."""
    given = [[run[name] for name in ids if name in run] for run in runs]
    return mean_and_deviation([fmean(values) for values in given if values])


def _submission(records: Sequence[Prediction], out: Path) -> Path:
    path = out / "mmvet.json"
    answers = {record.id: record.answer for record in records}
    path.write_text(json.dumps(answers, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


TASK = Task(
    name="mmvet",
    title="MM-Vet",
    splits=("test",),
    prompts=("question", "direct"),
    protocols=("mmvet_official",),
    files=lambda root, split: [_file(root)],
    load=_load,
    score=only_judged,
    primary_metric="total",
    download_hint="Unpack mm-vet.zip of yuweihao/MM-Vet so that mmvet/ holds mm-vet.json and images/.",
    decoding={"": Decoding(max_new_tokens=512)},
    counts={"test": 218},
    judged=JudgedScoring(MMVET_JUDGE, MMVET_RUNS, ("mmvet_official",), ("mmvet",), _items, _score),
    submission=_submission,
    paper_results={
        ("paper_table_2", "mmvet"): "total",
        ("readme", "mmvet"): "total",
        ("supplement_table_5", "total"): "total",
        **{("supplement_table_5", name): f"capabilities.{name}" for name in CAPABILITIES},
    },
)
