"""MMBench: multiple choice, each question once for each rotation of its options (specification, 6)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from owl2.evaluation.judge.benchmark_items import mmbench_item
from owl2.evaluation.judge.judge import JudgeItem
from owl2.evaluation.metrics import mmbench_choice, mmbench_circular
from owl2.evaluation.task import Decoding, JudgedScoring, Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.common import means_by
from owl2.evaluation.tasks.shared.judged_runs import summary_over_runs
from owl2.evaluation.tasks.shared.mmbench_table import BenchRow, read_table, write_submission
from owl2.evaluation.tasks.shared.multiple_choice import (
    ANSWER_WITH_LETTER,
    OWL2_ANSWER_WITH_LETTER,
    option_lines,
    owl2_prompt,
    without_answers,
)

_FILES = {
    "dev": "mmbench_dev_20230712.tsv",  # that of the official scripts
    "test": "mmbench_test_20230712.tsv",
    "dev_20231003": "mmbench_dev_en_20231003.tsv",
    "test_20231003": "mmbench_test_en_20231003.tsv",
    "dev_vlmevalkit": "MMBench_DEV_EN.tsv",
    "test_vlmevalkit": "MMBench_TEST_EN.tsv",
    "dev_v11": "MMBench_DEV_EN_V11.tsv",
    "test_v11": "MMBench_TEST_EN_V11.tsv",
}

_JUDGE = "gpt-3.5-turbo-0125"  # VLMEvalKit's for multiple choice

_ABBREVIATIONS = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "attribute_reasoning": "AR",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
}

_PUBLISHED = {
    "logical_reasoning": "LR",
    "attribute_reasoning": "AR",
    "relation_reasoning": "RR",
    "finegrained_single": "FP-S",
    "finegrained_cross": "FP-C",
    "coarse_perception": "CP",
}


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    """The rows, the rotations of a question one after the other: the first samples are whole questions."""
    table = read_table(root / "mmbench" / _FILES[split])
    table.sort(key=lambda row: (row.group, row.index))
    return [_sample(row, prompt) for row in table]


def _sample(row: BenchRow, prompt: str) -> Sample:
    return Sample(
        id=str(row.index),
        prompt=_prompt(prompt, row),
        gold=row.answer,
        images=(row.image,),
        details={
            "line": row.line,
            "g_index": row.group,
            "question": row.question,
            "hint": row.hint,
            "options": row.options,
            "category": row.category,
            "l2-category": _ABBREVIATIONS.get(row.l2_category or "", row.l2_category),
            "split": row.split,
        },
    )


def _prompt(name: str, row: BenchRow) -> str:
    options = option_lines(row.options)
    if name == "owl2":
        return owl2_prompt(row.hint, row.question, row.options)
    if name == "llava":
        hint = f"{row.hint}\n" if row.hint else ""
        return f"{hint}{row.question}\n{options}\n{ANSWER_WITH_LETTER}"
    hint = f"Hint: {row.hint}\n" if row.hint else ""
    # Its wrapper puts "ASSISTANT: " right after the last line break, the chat template a space before that.
    return f"{hint}{row.question}\n{options}\n\n{OWL2_ANSWER_WITH_LETTER}  \n"


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    return _circular(records, [record.answer for record in records], protocol)


def _circular(records: Sequence[Prediction], predictions: Sequence[str], protocol: str) -> Scores:
    """CircularEval of predictions, in which a judge's letters may have replaced answers."""
    parsed = [
        mmbench_choice(text, record.details["options"], protocol)
        for text, record in zip(predictions, records, strict=True)
    ]
    if all(record.gold is None for record in records):
        return without_answers(parsed)
    rows = [_metric_row(record, text) for record, text in zip(records, predictions, strict=True)]
    found = mmbench_circular(rows, protocol)
    correct = [float(letter == record.gold) for letter, record in zip(parsed, records, strict=True)]
    splits = {record.details["g_index"]: record.details["split"] for record in records}
    summary = {
        "accuracy": found["accuracy"],
        "first_pass": found["first_pass"],
        "undecided": sum(letter is None for letter in parsed),
        "questions": len(found["groups"]),
        "per_l2": found["per_l2"],
        "per_category": found["per_category"],
    }
    if all(splits.values()):
        summary["per_split"] = means_by([splits[base] for base in found["groups"]], list(found["groups"].values()))
    return Scores(parsed, correct, summary)


def _metric_row(record: Prediction, prediction: str) -> dict[str, Any]:
    """The row that `mmbench_circular` takes."""
    details = record.details
    named = {name: details[name] for name in ("g_index", "category", "l2-category")}
    return {"index": record.id, "answer": record.gold, "prediction": prediction, **named, **details["options"]}


def _judge_items(records: Sequence[Prediction], protocol: str, prompts: Mapping[str, str]) -> list[JudgeItem[Any]]:
    """The undecided rows of the questions that no decided row has lost already."""
    found = [(record, mmbench_choice(record.answer, record.details["options"])) for record in records]
    lost = {record.details["g_index"] for record, letter in found if letter is not None and letter != record.gold}
    return [
        mmbench_item(
            record.id, record.details["question"], record.details["options"], record.answer, prompts["mmbench"]
        )
        for record, letter in found
        if letter is None and record.gold is not None and record.details["g_index"] not in lost
    ]


def _judged_score(records: Sequence[Prediction], runs: Sequence[Mapping[str, Any]], protocol: str) -> Scores:
    """Scores with the judge's letters in place of undecided answers; the means over several runs."""
    of_runs = [
        _circular(records, [run.get(record.id, record.answer) for record in records], "vlmevalkit") for run in runs
    ]
    summaries = [scores.summary for scores in of_runs]
    summary = summary_over_runs(
        [{key: value for key, value in each.items() if _is_number(value)} for each in summaries]
    )
    for name, values in summaries[0].items():
        if not _is_number(values):
            summary[name] = {key: fmean(each[name][key] for each in summaries) for key in values}
    return Scores(of_runs[0].parsed, of_runs[0].scores, summary)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


TASK = Task(
    name="mmbench",
    title="MMBench",
    splits=tuple(_FILES),
    prompts=("owl2", "llava", "vlmevalkit"),
    protocols=("vlmevalkit", "legacy2023", "judged"),
    files=lambda root, split: [root / "mmbench" / _FILES[split]],
    load=_load,
    score=_score,
    primary_metric="accuracy",
    download_hint="Put the TSV files of MMBench (open-compass/MMBench), which hold the images, into mmbench/.",
    decoding={"": Decoding(max_new_tokens=10)},
    counts={"dev": 4377},
    judged=JudgedScoring(_JUDGE, 1, ("judged",), ("mmbench",), _judge_items, _judged_score),
    submission=write_submission,
    paper_results={
        ("paper_table_2", "mmbench"): "accuracy",
        ("readme", "mmbench"): "accuracy",
        ("supplement_table_4", "overall"): "accuracy",
        **{("supplement_table_4", measure): f"per_l2.{name}" for measure, name in _PUBLISHED.items()},
    },
    not_comparable={
        "dev": "the paper's Table 2 reports test, its supplement's Table 4 dev in the caption and test in the text",
        **{split: "the paper used the files of 2023-07-12" for split in _FILES if split not in ("dev", "test")},
    },
)
