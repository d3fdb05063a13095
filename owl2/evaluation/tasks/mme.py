"""MME: yes-no questions in pairs, two on each image, in 14 categories (specification, 5)."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from owl2.data.annotations import Row, image_path
from owl2.evaluation.metrics import mme_answer, mme_scores
from owl2.evaluation.metrics.mme import COGNITION, PERCEPTION
from owl2.evaluation.task import Decoding, Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.common import SHORT_ANSWER, naming_file_errors

_CATEGORIES = (*PERCEPTION, *COGNITION)
_APART = ("landmark", "artwork", "celebrity", "posters", "scene")  # images and questions in folders of their own
_ENDINGS = (".jpg", ".png", ".jpeg")
_REQUEST = "Please answer yes or no."


def _images(root: Path, category: str) -> Path:
    folder = root / "mme" / "MME_Benchmark_release_version" / category
    return folder / "images" if category in _APART else folder


def _list(root: Path, category: str) -> Path:
    """The evaluation tool's list of a category, which gives the order of the questions."""
    return root / "mme" / "eval_tool" / "Your_Results" / f"{category}.txt"


def _questions(root: Path, category: str) -> list[Path]:
    """The files of questions, one an image, which serve where the evaluation tool is missing."""
    folder = root / "mme" / "MME_Benchmark_release_version" / category
    return sorted((folder / "questions_answers_YN" if category in _APART else folder).glob("*.txt"))


def _files(root: Path, split: str) -> list[Path]:
    found: list[Path] = []
    for category in _CATEGORIES:
        listed = _list(root, category)
        found += [listed] if listed.is_file() else _questions(root, category) or [listed]
    return found


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    samples = []
    for category in _CATEGORIES:
        listed = _list(root, category)
        rows = list(_listed(listed) if listed.is_file() else _asked(root, category))
        _check_pairs(rows)
        for number, row in enumerate(rows):
            name = row.text("image")
            question = row.string("question").replace(_REQUEST, "")  # the space before it stays
            samples.append(
                Sample(
                    id=f"{category}/{name}/{number % 2 + 1}",
                    prompt=f"{question}\n{SHORT_ANSWER}",
                    gold=row.text("gold"),
                    images=(Path(image_path(_images(root, category), name, row)),),
                    details={"category": category, "image": name, "question": row.string("question")},
                )
            )
    return samples


def _listed(path: Path) -> Iterator[Row]:
    """Rows of `image, question, answer`, in the order of the evaluation tool."""
    for where, fields in _lines(path, 3):
        yield _row(where, *fields)


def _asked(root: Path, category: str) -> Iterator[Row]:
    """Rows of the files `<image>.txt`, each with two lines of `question, answer`."""
    for path in _questions(root, category):
        images = [
            path.stem + ending for ending in _ENDINGS if (_images(root, category) / (path.stem + ending)).exists()
        ]
        for where, fields in _lines(path, 2):
            yield _row(where, images[0] if images else path.stem + _ENDINGS[0], *fields)


def _lines(path: Path, count: int) -> Iterator[tuple[str, list[str]]]:
    """Position and fields of the lines of a file of `count` columns, separated by tabs."""
    with naming_file_errors(path):
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            fields = line.split("\t")
            if len(fields) != count:
                raise ValueError(
                    f"{path}, line {number}: {len(fields)} fields between tabs, not {count}: {line!r:.100}"
                )
            yield f"{path}, line {number}", fields


def _row(where: str, image: str, question: str, gold: str) -> Row:
    row = Row({"image": image, "question": question, "gold": gold.strip()}, where)
    if row.text("gold").lower() not in ("yes", "no") or not question.strip():
        raise row.error(f"the question {question!r:.100} has the answer {gold!r:.40}, not Yes or No")
    return row


def _check_pairs(rows: Sequence[Row]) -> None:
    """Checks that each two consecutive rows ask about one image, and no others do."""
    for first, second in zip(rows[::2], rows[1::2], strict=False):
        if first.text("image") != second.text("image"):
            raise second.error(
                f"asks about {second.text('image')!r}, the row before about {first.text('image')!r}: every image "
                "needs two rows, one after the other"
            )
    counts = Counter(row.text("image") for row in rows)
    for row in rows:
        if counts[row.text("image")] != 2:
            raise row.error(f"{counts[row.text('image')]} rows ask about {row.text('image')!r}, not 2")


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    read = {"mme_official": mme_answer, "lmms": _lmms_answer}[protocol]
    parsed = [read(record.answer) for record in records]
    correct = [float(answer == record.gold.lower()) for answer, record in zip(parsed, records, strict=True)]
    rows = [
        {"category": record.details["category"], "image": record.details["image"], "gt": record.gold, "pred": answer}
        for record, answer in zip(records, parsed, strict=True)
    ]
    paired, alone = _paired(rows)
    summary = {**mme_scores(paired), "other": parsed.count("other")}
    if alone:
        summary["unpaired"] = alone
    return Scores(parsed, correct, summary)


def _paired(rows: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The rows of images with both questions, and the number of other rows, which incomplete files have."""
    by_image: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_image.setdefault((row["category"], row["image"]), []).append(row)
    pairs = [pair for pair in by_image.values() if len(pair) == 2]
    if not pairs:
        raise ValueError(
            "MME scores images with both of their questions, but there is none: predict two samples or more"
        )
    return [row for pair in pairs for row in pair], len(by_image) - len(pairs)


def _lmms_answer(prediction: str) -> str:
    """Reads an answer as lmms-eval does: outer white space and periods are dropped, and `y` and `n` count."""
    text = prediction.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(text) or mme_answer(text)


def _submission(records: Sequence[Prediction], out: Path) -> Path:
    """The files of the evaluation tool: `image, question, answer, prediction`, separated by tabs."""
    folder = out / "mme"
    folder.mkdir(parents=True, exist_ok=True)
    for category in dict.fromkeys(record.details["category"] for record in records):
        rows = (
            (record.details["image"], record.details["question"], record.gold, " ".join(record.answer.split()))
            for record in records
            if record.details["category"] == category
        )
        (folder / f"{category}.txt").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return folder


TASK = Task(
    name="mme",
    title="MME",
    splits=("all",),
    prompts=("owl2",),
    protocols=("mme_official", "lmms"),
    files=_files,
    load=_load,
    score=_score,
    primary_metric="perception",
    download_hint="Put MME_Benchmark_release_version and eval_tool of MME "
    "(BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation; the images on request) into mme/.",
    decoding={"": Decoding(max_new_tokens=10)},
    counts={"all": 2374},
    submission=_submission,
    paper_results={("paper_table_2", "mme"): "perception", ("readme", "mme"): "perception"},
)
