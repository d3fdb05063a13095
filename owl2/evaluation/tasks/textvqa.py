"""TextVQA: questions about text in pictures, with or without the words that Rosetta read there (specification, 2.4)."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from owl2.data.annotations import Row, image_path, rows
from owl2.evaluation.task import Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.vqa import (
    DECODING,
    OF_THE_SCRIPTS,
    exactly_ten,
    score_vqa,
    ten_answers,
    with_instruction,
)
from owl2.evaluation.tasks.shared.vqa_converted import converted_files, converted_rows

_WITH_OCR = "ocr"


def _ocr_file(root: Path) -> Path:
    return root / "textvqa" / "TextVQA_Rosetta_OCR_v0.2_val.json"


def _files(root: Path, split: str) -> list[Path]:
    original, converted = root / "textvqa" / "TextVQA_0.5.1_val.json", converted_files(root / "textvqa", split, True)
    chosen = converted if converted[0].is_file() and not original.is_file() else [original]
    return [*chosen, *filter(Path.is_file, [_ocr_file(root)])]


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    words = _ocr_words(_ocr_file(root)) if prompt.startswith(_WITH_OCR) else None
    return [_sample(root, row, image, answers, prompt, words) for row, image, answers in _rows(root, split)]


def _rows(root: Path, split: str) -> Iterator[tuple[Row, str, list[str]]]:
    """Each row with its image's id and its ten answers."""
    file, *others = _files(root, split)
    if file.suffix == ".jsonl":
        for row, name, annotation in converted_rows(file, others[0]):
            assert annotation is not None
            yield row, PurePosixPath(name).stem, ten_answers(annotation)
        return
    for row in rows(file, "data"):
        answers = [Row({"answer": answer}, row.where).string("answer") for answer in row.items("answers")]
        yield row, row.text("image_id"), exactly_ten(row, answers)


def _sample(
    root: Path, row: Row, image: str, answers: list[str], prompt: str, words: dict[str, list[str]] | None
) -> Sample:
    question = row.text("question")
    if words is None:
        text = with_instruction(question, prompt)
    elif image not in words:
        raise row.error(f"image {image!r} has no record in the file of OCR words")
    else:
        form = prompt.replace(_WITH_OCR, "newline")
        text = with_instruction(question, form, f"\nReference OCR token: {', '.join(words[image])}")
    return Sample(
        id=str(row.integer("question_id")),
        prompt=text,
        gold=answers,
        images=(Path(image_path(root / "textvqa" / "train_images", f"{image}.jpg", row)),),
        details={"ocr": words is not None},
    )


def _ocr_words(file: Path) -> dict[str, list[str]]:
    if not file.is_file():
        raise ValueError(f"the prompt with OCR words needs {file}, which was not found: download it from textvqa.org")
    return {row.text("image_id"): [str(word) for word in row.items("ocr_tokens")] for row in rows(file, "data")}


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    """Accuracy over all questions, and by whether the prompt had OCR words, which the paper reports apart."""
    scores = score_vqa(records, protocol)
    kind = "with_ocr" if records[0].details["ocr"] else "without_ocr"
    return Scores(scores.parsed, scores.scores, {**scores.summary, kind: scores.summary["accuracy"]})


TASK = Task(
    name="textvqa",
    title="TextVQA",
    splits=("val",),
    prompts=("space", "newline", "newline_capitalized", "ocr", "ocr_capitalized"),
    protocols=("vqa_m4c", "vqa_official", "vqa_owl2"),
    files=_files,
    load=_load,
    score=_score,
    primary_metric="accuracy",
    download_hint="Put TextVQA_0.5.1_val.json of textvqa.org into textvqa/ (for the prompts with OCR words "
    "TextVQA_Rosetta_OCR_v0.2_val.json too), and its training and validation images into textvqa/train_images/.",
    decoding={"": DECODING},
    counts={"val": 5000},
    paper_results={
        (table, column): OF_THE_SCRIPTS + measure
        for table in ("paper_table_1", "readme")
        for column, measure in (("textvqa", "without_ocr"), ("textvqa_ocr", "with_ocr"))
    },
    not_comparable={"ocr": "the paper's prompt with OCR words is not published: this is LLaVA's"},
)
