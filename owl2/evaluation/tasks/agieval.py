"""AGIEval, zero-shot: 21 sets of examinations (specification, 13.3)."""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from owl2.data.annotations import Row, line_rows
from owl2.evaluation.metrics import agieval_answer, math_equivalent
from owl2.evaluation.metrics.agieval import AGIEVAL_DATASETS
from owl2.evaluation.task import Decoding, Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.common import means_by
from owl2.evaluation.tasks.shared.ranking import likeliest_sequence

NAMES = tuple(sorted(AGIEVAL_DATASETS))

_RANKED = tuple(name for name in NAMES if name not in ("jec-qa-kd", "jec-qa-ca", "gaokao-mathcloze", "math"))
_FIVE_OPTIONS = ("lsat-ar", "lsat-lr", "lsat-rc", "aqua-rat")
_CHINESE = "gaokao-chinese gaokao-geography gaokao-history gaokao-biology gaokao-chemistry gaokao-physics".split()
_CHINESE += "gaokao-mathqa gaokao-mathcloze logiqa-zh jec-qa-kd jec-qa-ca".split()
# OpenCompass asks in Chinese of gaokao-english too, and in English where it lists a set as not Chinese.
_CHINESE_HINT = (*(name for name in _CHINESE if not name.startswith("jec")), "gaokao-english")

_GAOKAO = {
    "chinese": "语文",
    "english": "英语",
    "geography": "地理",
    "history": "历史",
    "biology": "生物",
    "chemistry": "化学",
    "physics": "物理",
    "mathqa": "数学",
}
_INTRODUCTIONS = {
    **{f"gaokao-{name}": f"以下是一道中国高考{subject}选择题，请选择正确的答案。" for name, subject in _GAOKAO.items()},
    "gaokao-mathcloze": "以下是一道中国高考数学填空题，请填入正确的答案。",
    "logiqa-zh": "以下是一道中国公务员考试题，请选择正确的答案。",
    "jec-qa-kd": "以下是一道中国司法考试基础知识题，请选择正确的答案。",
    "jec-qa-ca": "以下是一道中国司法考试案例分析题，请选择正确的答案。",
    **{
        name: f"The following is a {subject} question. Please select the correct answer."
        for name, subject in {
            "lsat-ar": "LSAT Analytical Reasoning",
            "lsat-lr": "LSAT Logical Reasoning",
            "lsat-rc": "LSAT Reading Comprehension",
            "logiqa-en": "Logic Reasoning",
            "sat-math": "SAT Math",
            "sat-en": "SAT English",
            "sat-en-without-passage": "SAT English",
            "aqua-rat": "AQUA-RAT",
            "math": "Math",
        }.items()
    },
}
"""The introductions of OpenCompass' mixed configuration (agieval_mixed)."""

_LETTERS = re.compile("[A-G]+")  # of a label
_FIRST_LETTERS = re.compile("[A-D]+")


def _file(root: Path, name: str) -> Path:
    return root / "agieval" / "data" / "v1" / f"{name}.jsonl"


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    write = _opencompass if prompt == "opencompass_mixed" else _official
    samples = []
    for name in NAMES:
        for number, row in line_rows(_file(root, name)):
            question = (_passage(row), row.text("question"), _options(row))
            samples.append(write(f"{name}-{number}", name, *question, _gold(row, name)))
    return samples


def _passage(row: Row) -> str:
    """The text that the question is about, if it has one."""
    return "" if row.values.get("passage") is None else row.string("passage")


def _options(row: Row) -> list[str]:
    options = row.values.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise row.error(f"'options' is {options!r:.100}, not a list of texts")
    return options


def _gold(row: Row, name: str) -> str | list[str]:
    """The label, one letter or several; for the cloze sets, the answer."""
    if AGIEVAL_DATASETS[name] == "cloze":
        return row.text("answer")
    label = row.values.get("label")
    letters: list[Any] = label if isinstance(label, list) else [label]
    if not letters or not all(isinstance(letter, str) and _LETTERS.fullmatch(letter) for letter in letters):
        raise row.error(f"'label' is {label!r:.60} in {name}: expected a letter A to G, or a list of them")
    return letters if isinstance(label, list) else str(letters[0])


def _opencompass(name: str, dataset: str, passage: str, question: str, options: list[str], gold: Any) -> Sample:
    """A question of OpenCompass' mixed configuration: letters are ranked, other answers are generated."""
    text = f"{_INTRODUCTIONS[dataset]}\n{passage}{question}"
    hint = "答案是：" if dataset in _CHINESE_HINT else "The answer is "
    choices: tuple[str, ...] = ()
    if dataset in _RANKED:
        letters = "ABCDE" if dataset in _FIVE_OPTIONS else "ABCD"
        separator = " " if hint.endswith(" ") else ""
        text = "\n".join([text, "\n".join(options), hint.removesuffix(" ")])
        choices = tuple(separator + letter for letter in letters)
    elif AGIEVAL_DATASETS[dataset] == "cloze":
        text += hint
    else:
        text = "\n".join([text, "\n".join(options), hint])
    return Sample(
        id=name,
        prompt=text,
        gold=gold,
        choices=choices,
        uses_chat_template=not choices,
        details={"dataset": dataset},
    )


def _official(name: str, dataset: str, passage: str, question: str, options: list[str], gold: Any) -> Sample:
    """The zero-shot prompts of the benchmark's repository; every answer is generated."""
    if dataset == "math":
        text = f"Q: {question}\nA: The answer is"
    elif dataset == "gaokao-mathcloze":
        text = f"问题：{question}\n答案："
    elif dataset in _CHINESE:
        last = "ABCDEFG"[(len(options) if len(options) > 1 else 4) - 1]
        text = f"{passage}问题：{question} 选项：{' '.join(options)}\n答案：从A到{last}, 我们应选择"
    else:
        last = "ABCDEFG"[(len(options) if len(options) > 1 else 5) - 1]
        text = f"{passage}Q: {question} Answer Choices: {' '.join(options)}\nA: Among A through {last}, the answer is"
    return Sample(id=name, prompt=text, gold=gold, details={"dataset": dataset})


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    judge = _opencompass_result if protocol == "opencompass2023" else _official_result
    found = [judge(record) for record in records]
    correct = [float(is_right) for _, is_right in found]
    per_set = means_by([record.details["dataset"] for record in records], correct)
    summary = {"accuracy": fmean(per_set.values()), "micro": fmean(correct), "per_set": per_set}
    return Scores([answer for answer, _ in found], correct, summary)


def _opencompass_result(record: Prediction) -> tuple[Any, bool]:
    """A set with several right letters counts if they are named together, in their order."""
    gold = "".join(record.gold)
    if record.details["dataset"] in _RANKED:
        letter = record.ranking.choices[likeliest_sequence(record.ranking)].strip()
        return letter, letter == gold
    if AGIEVAL_DATASETS[record.details["dataset"]] == "cloze":
        return _cloze(record)
    match = _FIRST_LETTERS.search(record.answer)
    letters = match.group() if match else ""
    return letters, letters == gold


def _official_result(record: Prediction) -> tuple[Any, bool]:
    kind = AGIEVAL_DATASETS[record.details["dataset"]]
    if kind == "cloze":
        return _cloze(record)
    answer = agieval_answer(record.answer, record.details["dataset"])
    if kind == "multiple":
        return answer, set(answer or ()) == set(record.gold)
    return answer, answer == "".join(record.gold)


def _cloze(record: Prediction) -> tuple[Any, bool]:
    answer = agieval_answer(record.answer, record.details["dataset"])
    assert not isinstance(answer, list)
    return answer, math_equivalent(answer, "".join(record.gold))


TASK = Task(
    name="agieval",
    title="AGIEval",
    splits=("test",),
    prompts=("opencompass_mixed", "official"),
    protocols=("opencompass2023", "agieval_official"),
    protocols_of={"opencompass_mixed": ("opencompass2023",), "official": ("agieval_official",)},
    files=lambda root, split: [_file(root, name) for name in NAMES],
    load=_load,
    score=_score,
    primary_metric="accuracy",
    download_hint="Put the folder data/v1 of ruixiangcui/AGIEval into agieval/data/v1/.",
    decoding={"": Decoding(max_new_tokens=1024)},
    counts={"test": 8269},
    paper_results={("paper_table_3", "agieval"): "accuracy", ("readme", "agieval"): "accuracy"},
)
