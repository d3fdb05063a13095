"""VizWiz-VQA: questions that blind people asked about their photographs (specification, 2.4).

Samples are known by the file name of their image: the files have no ids.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from owl2.data.annotations import Row, image_path, rows
from owl2.evaluation.metrics import evalai_answer
from owl2.evaluation.metrics.vqa import unanswerable_scores
from owl2.evaluation.task import Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.vqa import DECODING, score_vqa, ten_answers, with_instruction, write_answers
from owl2.evaluation.tasks.shared.vqa_converted import converted_files, converted_rows

_PUBLIC = "val"  # the split whose answers are


def _files(root: Path, split: str) -> list[Path]:
    original = root / "vizwiz" / "Annotations" / f"{split}.json"
    converted = converted_files(root / "vizwiz", split, split == _PUBLIC)
    return converted if converted[0].is_file() and not original.is_file() else [original]


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    return [
        Sample(
            id=name,
            prompt=with_instruction(row.text("question"), prompt),
            gold=ten_answers(annotation) if annotation else None,
            images=(Path(image_path(root / "vizwiz" / split, name, row)),),
            details=_kinds(annotation) if annotation else {},
        )
        for row, name, annotation in _rows(root, split)
    ]


def _rows(root: Path, split: str) -> Iterator[tuple[Row, str, Row | None]]:
    """Each row with its image's name and the place of its answers, which is None in the test split."""
    file, *annotations = _files(root, split)
    if file.suffix == ".jsonl":
        yield from converted_rows(file, *annotations)
    else:
        yield from ((row, row.text("image"), row if split == _PUBLIC else None) for row in rows(file))


def _kinds(row: Row) -> dict[str, str | int]:
    kinds: dict[str, str | int] = {"answer_type": row.text("answer_type")}
    if "answerable" in row.values:  # Qwen-VL's conversion may lack it
        kinds["answerable"] = row.integer("answerable")
        if kinds["answerable"] not in (0, 1):
            raise row.error(f"'answerable' is {kinds['answerable']}, not 0 or 1")
    return kinds


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    """Accuracy and, as in the benchmark's own program, how well the unanswerable questions are found."""
    scores = score_vqa(records, protocol)
    if protocol != "vizwiz_official" or not all("answerable" in record.details for record in records):
        return scores
    unanswerable = [record.details["answerable"] == 0 for record in records]
    found = unanswerable_scores([record.answer for record in records], unanswerable)
    named = {f"unanswerable_{name}": value for name, value in found.items()}
    return Scores(scores.parsed, scores.scores, {**scores.summary, **named})


def _submission(records: Sequence[Prediction], directory: Path) -> Path:
    answers = [{"image": record.id, "answer": evalai_answer(record.answer)} for record in records]
    return write_answers(answers, directory / "vizwiz_test_results.json")


TASK = Task(
    name="vizwiz",
    title="VizWiz",
    splits=("val", "test"),
    prompts=("space", "newline", "unanswerable", "unanswerable_capitalized"),
    protocols=("vizwiz_official", "vqa_official", "vqa_m4c"),
    files=_files,
    load=_load,
    score=_score,
    primary_metric="accuracy",
    download_hint="Put val.json and test.json of the VQA task of vizwiz.org into vizwiz/Annotations/, and the "
    "images of its val.zip and test.zip into vizwiz/val/ and vizwiz/test/.",
    decoding={"": DECODING},
    counts={"val": 4319, "test": 8000},
    submission=_submission,
    submitted_splits=("test",),
    paper_results={("paper_table_1", "vizwiz"): "accuracy", ("readme", "vizwiz"): "accuracy"},
    not_comparable={
        "val": "the paper reports test-dev, this is val",
        "space": "the paper's prompt is not published: this is that of its other VQA benchmarks",
    },
)
