"""Qwen-VL's converted files of TextVQA and VizWiz, which the scripts of mPLUG-Owl2 read (specification, 2.4).

Rows of `image`, `question` and `question_id`, one a line or as a JSON list whatever the file's name says
(specification, 0.2), and annotations in the format of VQAv2, joined by `question_id`. Only the file name of an image's
path counts. VQAv2 and OK-VQA were converted too, but need their original questions and annotations beside that, which
are read in their place.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from owl2.data.annotations import Row

from .common import list_or_line_rows
from .vqa import annotations_by_question


def converted_files(folder: Path, split: str, has_answers: bool) -> list[Path]:
    """The rows of a split of the benchmark that the folder is named after, and the annotations if it has answers."""
    name = f"{folder.name}_{split}"
    return [folder / f"{name}.jsonl", *([folder / f"{name}_annotations.json"] if has_answers else [])]


def converted_rows(rows: Path, annotations: Path | None = None) -> Iterator[tuple[Row, str, Row | None]]:
    """Each row with the name of its image file and its annotation; None without `annotations`.

    Raises:
        ValueError: A broken record, by file and number; a question without annotation or the reverse.
    """
    annotated = {} if annotations is None else annotations_by_question(annotations)
    for row in list_or_line_rows(rows):
        name = PurePosixPath(row.text("image")).name
        annotation = annotated.pop(row.integer("question_id"), None) if annotations is not None else None
        if annotations is not None and annotation is None:
            raise row.error(f"question {row.integer('question_id')} occurs twice or has no annotation in {annotations}")
        yield row, name, annotation
    if annotated:
        raise ValueError(f"{rows}: {len(annotated)} annotations are of questions it lacks, such as {min(annotated)}")
