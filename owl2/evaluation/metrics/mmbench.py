"""MMBench: which option a text chooses, and CircularEval over the rotations of a question (specification, section 6).

Sources: VLMEvalKit, protocol `vlmevalkit`; the evaluation script of MMBench's first release, protocol `legacy2023`.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from string import ascii_uppercase
from typing import Any

REFUSAL = "Z"
ROTATION = 1_000_000  # a row's index is that of its question + k * ROTATION

_API_FAILURE = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_MARKS_TO_SPACES = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_STATEMENT = re.compile(r"answer\s+is\s+\**([A-D])", re.IGNORECASE)  # no word boundary: "answer is apples" says A
_LAST_TOKENS = 4

_LEGACY_LETTERS = "ABCDE"  # whatever the options are
_LEGACY_AFFIXES = (
    *(("", "."), ("", ","), ("", ":"), ("", ")"), ("", ").")),
    *(("(", ")"), ("(", ").")),
    *((":", ""), (":", ","), (":", "."), (":", ")"), (":", ").")),
)


def mmbench_choice(answer: str, options: Mapping[str, str], protocol: str = "vlmevalkit") -> str | None:
    """The letter that a free text chooses.

    Args:
        answer: Text of the model, or of a judge.
        options: Text of each option by its capital letter; empty, `None` or NaN is an option that the question lacks.
        protocol: "vlmevalkit" looks for one of the options' letters standing alone among the last four words, then
            for "answer is X", then for the text of just one option in an answer not longer than twice all options;
            "legacy2023" for one of A to E standing alone (but no A among more than three words), then with marks
            around it such as "X." or "(X)", then for the text of just one option.

    Returns:
        A letter, "Z" where the answer refuses to choose ("vlmevalkit" only), or `None`: undecided, a judge's task.

    Raises:
        ValueError: Unknown protocol.
    """
    options = {letter: option for letter, option in options.items() if not is_missing(option)}
    if protocol == "vlmevalkit":
        readable = len(answer.lower()) <= 2 * sum(len(str(option)) for option in options.values())
        return _letter(answer, options) or (_option_in_text(answer, options) if readable else None)
    if protocol == "legacy2023":
        return _legacy_letter(answer) or _option_in_text(answer, options)
    raise ValueError(f"unknown MMBench protocol {protocol!r}, known are 'vlmevalkit' and 'legacy2023'")


def mmbench_circular(rows: Iterable[Mapping[str, Any]], protocol: str = "vlmevalkit") -> dict[str, Any]:
    """CircularEval: a question counts if the prediction is right in every rotation of its options.

    Without a judge an undecided prediction is wrong; after one, put the letter that it replied in `prediction`.

    Args:
        rows: Columns of the official TSV (`index`, `A`, `B`, ..., `answer`, `category`, `l2-category`, perhaps
            `g_index`) and `prediction`, in any order. Empty, `None` or NaN is a missing option or an empty prediction.
        protocol: The protocol of `mmbench_choice`.

    Returns:
        `accuracy`: mean over questions. `groups`: 0 or 1 by index of the question's base row. `per_l2` and
        `per_category`: mean over the questions of each category, which the base row tells (empty without such a
        column). `first_pass`: accuracy over base rows alone. All are fractions.

    Raises:
        ValueError: No rows, two rows of one index, a row without index, prediction or gold answer, a question without
            base row, or an unknown protocol.
    """
    by_index: dict[int, Mapping[str, Any]] = {}
    rotations: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        index = _index(row)
        if index in by_index:
            raise ValueError(f"MMBench has two rows of index {index}: give each row of the TSV once")
        by_index[index] = row
        rotations[index % ROTATION if is_missing(row.get("g_index")) else int(row["g_index"])].append(index)
    if not by_index:
        raise ValueError("MMBench has no rows to score")
    orphans = [base for base in rotations if base not in by_index]
    if orphans:
        raise ValueError(f"{len(orphans)} MMBench questions lack their base row, among them index {orphans[0]}")
    right = {index: _is_right(row, protocol) for index, row in by_index.items()}
    hits = {base: int(all(right[index] for index in rotations[base])) for base in sorted(rotations)}
    return {
        "accuracy": _mean(list(hits.values())),
        "groups": hits,
        "per_l2": _means_by("l2-category", hits, by_index),
        "per_category": _means_by("category", hits, by_index),
        "first_pass": _mean([int(right[base]) for base in hits]),
    }


def _index(row: Mapping[str, Any]) -> int:
    index = row.get("index")
    try:
        return int(index)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"the index of an MMBench row must be a whole number, got {index!r} in {row!r:.200}") from None


def _letter(answer: str, options: Mapping[str, str]) -> str | None:
    if _API_FAILURE in answer:
        return None
    if any(refusal in answer for refusal in _REFUSALS):
        return REFUSAL
    tokens = answer.translate(_MARKS_TO_SPACES).split()
    present = [letter for letter in options if letter in tokens]
    if len(present) == 1 and tokens.index(present[0]) >= len(tokens) - _LAST_TOKENS:
        return present[0]
    if not present and REFUSAL in tokens:
        return REFUSAL
    statement = _STATEMENT.search(answer)  # the first one only, even if its letter is not an option
    return statement[1].upper() if statement and statement[1].upper() in options else None


def _legacy_letter(answer: str) -> str | None:
    if _API_FAILURE in answer:
        return None
    tokens = answer.split()
    present = [letter for letter in _LEGACY_LETTERS if letter in tokens]
    if len(present) == 1 and not (present == ["A"] and len(tokens) > 3):  # "A" may be an article
        return present[0]
    for before, after in _LEGACY_AFFIXES:
        present = [letter for letter in _LEGACY_LETTERS if before + letter + after in tokens]
        if len(present) == 1:
            return present[0]
    return None


def _option_in_text(answer: str, options: Mapping[str, str]) -> str | None:
    text = answer.lower()
    present = [letter for letter, option in options.items() if str(option).lower() in text]
    return present[0] if len(present) == 1 else None


def _is_right(row: Mapping[str, Any], protocol: str) -> bool:
    if is_missing(row.get("answer")):
        raise ValueError(
            f"MMBench row {row['index']} has no answer: the test split is scored by the benchmark's server"
        )
    if "prediction" not in row:
        raise ValueError(f"MMBench row {row['index']} has no prediction: put '' where the model said nothing")
    options = {letter: row[letter] for letter in ascii_uppercase if letter in row}
    prediction = "" if is_missing(row["prediction"]) else str(row["prediction"])
    return mmbench_choice(prediction, options, protocol) == row["answer"]


def is_missing(cell: Any) -> bool:
    """Whether a cell of a table is empty: "", `None` or NaN."""
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _means_by(column: str, hits: dict[int, int], rows: dict[int, Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, list[int]] = defaultdict(list)
    for base, hit in hits.items():
        if not is_missing(rows[base].get(column)):
            found[rows[base][column]].append(hit)
    return {name: _mean(values) for name, values in sorted(found.items())}


def _mean(values: list[int]) -> float:
    return sum(values) / len(values)
