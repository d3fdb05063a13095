"""Accuracies of MMLU over questions, subjects and four groups of subjects. Source: evaluation specification 13.1."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

MMLU_GROUPS: dict[str, tuple[str, ...]] = {
    "humanities": (
        "formal_logic",
        "high_school_european_history",
        "high_school_us_history",
        "high_school_world_history",
        "international_law",
        "jurisprudence",
        "logical_fallacies",
        "moral_disputes",
        "moral_scenarios",
        "philosophy",
        "prehistory",
        "professional_law",
        "world_religions",
    ),
    "social": (
        "econometrics",
        "high_school_geography",
        "high_school_government_and_politics",
        "high_school_macroeconomics",
        "high_school_microeconomics",
        "high_school_psychology",
        "human_sexuality",
        "professional_psychology",
        "public_relations",
        "security_studies",
        "sociology",
        "us_foreign_policy",
    ),
    "STEM": (
        "abstract_algebra",
        "anatomy",  # "other" in the classic protocol
        "astronomy",
        "college_biology",
        "college_chemistry",
        "college_computer_science",
        "college_mathematics",
        "college_physics",
        "computer_security",
        "conceptual_physics",
        "electrical_engineering",
        "elementary_mathematics",
        "high_school_biology",
        "high_school_chemistry",
        "high_school_computer_science",
        "high_school_mathematics",
        "high_school_physics",
        "high_school_statistics",
        "machine_learning",
    ),
    "other": (
        "business_ethics",
        "clinical_knowledge",
        "college_medicine",
        "global_facts",
        "human_aging",
        "management",
        "marketing",
        "medical_genetics",
        "miscellaneous",
        "nutrition",
        "professional_accounting",
        "professional_medicine",
        "virology",
    ),
}
"""The 57 subjects by group, as OpenCompass and lm-eval group them."""

_GROUP_OF = {subject: group for group, subjects in MMLU_GROUPS.items() for subject in subjects}
_PROTOCOLS = ("opencompass2023", "classic")


class MmluScores(TypedDict):
    """Accuracies as fractions."""

    micro: float
    macro: float
    per_subject: dict[str, float]
    per_group: dict[str, float]


def mmlu_scores(correct: Mapping[str, Sequence[bool]], protocol: str = "opencompass2023") -> MmluScores:
    """Accuracies of the given subjects; the caller checks whether all 57 are among them.

    Args:
        correct: Whether each question of a subject ("college_biology") was answered correctly, by subject.
        protocol: "opencompass2023" averages the subjects of a group and has anatomy in STEM;
            "classic" (the original repository) averages the questions of a group and has anatomy in "other".

    Returns:
        Fractions: `micro` over all questions, `macro` the mean over subjects, `per_subject`, and `per_group` for
        those of "humanities", "social", "STEM" and "other" that have a subject.

    Raises:
        ValueError: No subject, an unknown one, one without questions or with an answer that is neither true nor false,
            an unknown protocol.
    """
    if protocol not in _PROTOCOLS:
        raise ValueError(f"unknown MMLU protocol {protocol!r}: use one of {', '.join(_PROTOCOLS)}")
    _check(correct)
    groups: dict[str, dict[str, Sequence[bool]]] = {}
    for subject, answers in correct.items():
        group = "other" if subject == "anatomy" and protocol == "classic" else _GROUP_OF[subject]
        groups.setdefault(group, {})[subject] = answers
    group_score = _micro if protocol == "classic" else _macro
    return {
        "micro": _micro(correct),
        "macro": _macro(correct),
        "per_subject": {subject: _accuracy(answers) for subject, answers in correct.items()},
        "per_group": {group: group_score(groups[group]) for group in MMLU_GROUPS if group in groups},
    }


def _check(correct: Mapping[str, Sequence[bool]]) -> None:
    if not correct:
        raise ValueError("no MMLU subject to score: pass the answers of at least one")
    if unknown := sorted(set(correct) - set(_GROUP_OF)):
        raise ValueError(f"unknown MMLU subjects {unknown}: use those of {', '.join(sorted(_GROUP_OF))}")
    if empty := sorted(subject for subject, answers in correct.items() if len(answers) == 0):
        raise ValueError(f"MMLU subjects without questions: {empty}; leave them out or pass their answers")
    if wrong := sorted(subject for subject, answers in correct.items() if not set(answers) <= {False, True}):
        raise ValueError(f"answers to MMLU questions are right (True) or wrong (False), not so in {wrong}")


def _accuracy(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers)


def _micro(correct: Mapping[str, Sequence[bool]]) -> float:
    return sum(map(sum, correct.values())) / sum(map(len, correct.values()))


def _macro(correct: Mapping[str, Sequence[bool]]) -> float:
    return sum(map(_accuracy, correct.values())) / len(correct)
