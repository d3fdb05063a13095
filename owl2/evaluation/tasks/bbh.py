"""BIG-Bench Hard: 27 tasks, answered by generation (specification, 13.2)."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from owl2.data.annotations import rows
from owl2.evaluation.metrics import bbh_answer
from owl2.evaluation.task import Decoding, Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.common import means_by, naming_file_errors

FREE_TASKS = (
    "multistep_arithmetic_two",
    "navigate",
    "dyck_languages",
    "word_sorting",
    "sports_understanding",
    "boolean_expressions",
    "object_counting",
    "formal_fallacies",
    "causal_judgement",
    "web_of_lies",
)
CHOICE_TASKS = (
    "temporal_sequences",
    "disambiguation_qa",
    "date_understanding",
    "tracking_shuffled_objects_three_objects",
    "penguins_in_a_table",
    "geometric_shapes",
    "snarks",
    "ruin_names",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_five_objects",
    "logical_deduction_three_objects",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "movie_recommendation",
    "salient_translation_error_detection",
    "reasoning_about_colored_objects",
)
NAMES = tuple(sorted((*FREE_TASKS, *CHOICE_TASKS)))

_RULE = "-----"


def _file(root: Path, name: str) -> Path:
    return root / "bbh" / "bbh" / f"{name}.json"


def _cot_file(root: Path, name: str) -> Path:
    return root / "bbh" / "cot-prompts" / f"{name}.txt"


def _files(root: Path, split: str) -> list[Path]:
    return [file(root, name) for name in NAMES for file in (_file, _cot_file)]


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    samples = []
    for name in NAMES:
        exemplars = _exemplars(_cot_file(root, name))
        for number, row in enumerate(rows(_file(root, name), "examples")):
            samples.append(
                Sample(
                    id=f"{name}-{number}",
                    prompt=_prompt(row.text("input"), exemplars, prompt),
                    gold=row.text("target"),
                    details={"task": name},
                )
            )
    return samples


def _exemplars(path: Path) -> str:
    """The task's sentence and its three exemplars, without the canary and the rule above them.

    Raises:
        ValueError: The file has no rule, or nothing below it.
    """
    with naming_file_errors(path):
        text = path.read_text(encoding="utf-8")
    _, rule, below = text.partition(_RULE)
    if not rule or not below.strip():
        raise ValueError(f"{path}: expected a canary line, a line {_RULE} and the exemplars below it")
    return below.strip()


def _prompt(question: str, exemplars: str, prompt: str) -> str:
    if prompt == "oc_cot3":
        return (
            f"Follow the given examples and answer the question.\n{exemplars}\n\nQ: {question}\n"
            "A: Let's think step by step."
        )
    if prompt == "oc_0shot":
        return f"Question: {question}\n You must give your final answer by starting with 'So the answer is' "
    description = exemplars.splitlines()[0]
    return f"{description}\n\nQ: {question}\nA:"


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    found = [_parsed(record.answer, record.gold, record.details["task"], protocol) for record in records]
    correct = [float(answer == gold) for answer, gold in found]
    per_task = means_by([record.details["task"] for record in records], correct)
    summary = {"accuracy": fmean(per_task.values()), "micro": fmean(correct), "per_task": per_task}
    return Scores([answer for answer, _ in found], correct, summary)


def _parsed(text: str, target: str, name: str, protocol: str) -> tuple[str, str]:
    """The answer and the target in the form in which they are compared."""
    if name in CHOICE_TASKS:
        return bbh_answer(text, "choice", protocol), bbh_answer(target, "choice", protocol)
    answer = bbh_answer(text, "free", protocol)
    if protocol == "opencompass2023":
        return answer, target
    return answer.lower(), bbh_answer(target, "free", protocol).lower()


TASK = Task(
    name="bbh",
    title="BBH",
    splits=("test",),
    prompts=("oc_cot3", "oc_0shot", "lmeval_0shot"),
    protocols=("opencompass2023", "opencompass2026"),
    files=_files,
    load=_load,
    score=_score,
    primary_metric="accuracy",
    download_hint="Put the folders bbh and cot-prompts of suzgunmirac/BIG-Bench-Hard into bbh/.",
    decoding={
        "": Decoding(max_new_tokens=512, stop=("Q:",)),
        "oc_0shot": Decoding(max_new_tokens=512),
    },
    counts={"test": 6511},
    paper_results={("paper_table_3", "bbh"): "accuracy", ("readme", "bbh"): "accuracy"},
    not_comparable={
        "oc_cot3": "the paper says 0-shot, this prompt shows three worked examples, with which the paper's number of "
        "LLaMA-2 was made",
        "oc_0shot": "0-shot as the paper says, but OpenCompass has this prompt only since after the paper",
        "lmeval_0shot": "0-shot as the paper says, but in the words of lm-eval, not of OpenCompass",
    },
)
