"""VizWiz-VQA: questions that blind people asked about their photographs (specification, 2.4).

Samples are known by the file name of their image: the files have no ids.
"""

from collections.abc import Sequence
from pathlib import Path

from owl2.data.sources.annotations import image_path, rows

from ..metrics import evalai_answer
from ..task import Record, Sample, Task
from .vqa import DECODING, asked, score_vqa, ten_answers, write_answers


def _files(root: Path, split: str) -> list[Path]:
    return [root / "vizwiz" / "Annotations" / f"{split}.json"]


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    samples = []
    (file,) = _files(root, split)
    for row in rows(file):
        image, is_annotated = row.text("image"), split == "val"
        samples.append(
            Sample(
                id=image,
                prompt=asked(row.text("question"), prompt),
                gold=ten_answers(row) if is_annotated else None,
                images=(Path(image_path(root / "vizwiz" / split, image, row)),),
                details={"answer_type": row.text("answer_type")} if is_annotated else {},
            )
        )
    return samples


def _submission(records: Sequence[Record], directory: Path) -> Path:
    answers = [{"image": record.id, "answer": evalai_answer(record.answer)} for record in records]
    return write_answers(answers, records, directory / "vizwiz_test_results.json")


TASK = Task(
    name="vizwiz",
    title="VizWiz",
    splits=("val", "test"),
    prompts=("space", "newline", "unanswerable", "unanswerable_capitalized"),
    protocols=("vizwiz_official", "vqa_official", "vqa_m4c"),
    files=_files,
    load=_load,
    score=score_vqa,
    headline="accuracy",
    fetch="Put val.json and test.json of the VQA task of vizwiz.org into vizwiz/Annotations/, and the images of its "
    "val.zip and test.zip into vizwiz/val/ and vizwiz/test/.",
    decoding={"": DECODING},
    counts={"val": 4319, "test": 8000},
    submission=_submission,
    published={("paper_table_1", "vizwiz"): "accuracy", ("readme", "vizwiz"): "accuracy"},
    unfair={"val": "the paper reports test-dev, this is val"},
)
