"""MME: yes-no questions in pairs, two on each image (specification, section 5).

Source: the benchmark's evaluation tool, which reads only the beginning of an answer and never strips it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")

_PREFIX = 4  # characters of an answer that are read


def mme_answer(prediction: str) -> Literal["yes", "no", "other"]:
    """Reads an answer: "yes", or else "no", if its first four characters hold that word, in any case.

    Nothing is stripped and no word boundary asked for: "    yes" is other, "know" and "None" are no.
    """
    beginning = prediction.lower()[:_PREFIX]
    if "yes" in beginning:
        return "yes"
    return "no" if "no" in beginning else "other"


def mme_scores(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores of predictions in the order of the official files.

    Args:
        rows: `category`, `image`, `gt` ("Yes" or "No") and `pred` (raw text). Two consecutive rows of a category ask
            about one image; rows of different categories may alternate.

    Returns:
        `per_category`: 100 acc + 100 acc+ of each category present (0 to 200), acc being the fraction of right
        questions and acc+ that of images with both questions right. `perception` (at most 2000) and `cognition` (at
        most 800): sums over their ten and four categories, as far as present.

    Raises:
        ValueError: No rows, a row that lacks one of the four, an unknown category, a `gt` other than yes or no, rows of
            a category not in pairs.
    """
    categories: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for number, row in enumerate(rows):
        _check_row(number, row)
        categories[row["category"]].append(row)
    if not categories:
        raise ValueError("MME has no rows to score")
    unknown = sorted(set(categories) - {*PERCEPTION, *COGNITION})
    if unknown:
        raise ValueError(f"unknown MME categories {unknown}, known are {[*PERCEPTION, *COGNITION]}")
    scores = {name: _category_score(name, questions) for name, questions in categories.items()}
    return {
        "perception": sum((scores[name] for name in PERCEPTION if name in scores), start=0.0),
        "cognition": sum((scores[name] for name in COGNITION if name in scores), start=0.0),
        "per_category": scores,
    }


def _check_row(number: int, row: Mapping[str, Any]) -> None:
    if "image" not in row or not all(isinstance(row.get(name), str) for name in ("category", "gt", "pred")):
        raise ValueError(f"row {number} of MME needs `image`, and texts as `category`, `gt` and `pred`: {row!r:.200}")


def _category_score(category: str, questions: Sequence[Mapping[str, Any]]) -> float:
    if len(questions) % 2:
        raise ValueError(
            f"MME category {category!r} has {len(questions)} rows: every image needs two, one after another"
        )
    pairs = list(zip(questions[::2], questions[1::2], strict=True))
    for first, second in pairs:
        if first["image"] != second["image"]:
            raise ValueError(
                f"MME category {category!r} pairs a row of image {first['image']!r} with one of {second['image']!r}: "
                "keep the order of the official files, two rows an image"
            )
    right = [(_is_right(first), _is_right(second)) for first, second in pairs]
    accuracy = sum(map(sum, right)) / len(questions)
    accuracy_plus = sum(map(all, right)) / len(pairs)
    return accuracy * 100 + accuracy_plus * 100


def _is_right(row: Mapping[str, Any]) -> bool:
    gold = row["gt"].lower()
    if gold not in ("yes", "no"):
        raise ValueError(f"the gt of MME image {row['image']!r} in {row['category']!r} is {row['gt']!r}, not Yes or No")
    return mme_answer(row["pred"]) == gold
