"""TGIF-QA: short answers about animated GIFs, the open-ended part FrameQA (specification, 12)."""

import csv
from collections.abc import Iterator
from pathlib import Path

from owl2.data.annotations import Row
from owl2.evaluation.tasks.shared.common import naming_file_errors, verbatim
from owl2.evaluation.tasks.shared.video_qa import VideoQuestion, one_word, video_task

_FILE = "Test_frameqa_question.csv"
_COLUMNS = ("gif_name", "question", "answer", "type", "vid_id")
_TYPES = {"0": "object", "1": "number", "2": "color", "3": "location"}


def _questions(folder: Path) -> Iterator[VideoQuestion]:
    """The rows of a file, which is separated by tabs in spite of its name.

    Raises:
        ValueError: The columns are others, or a row has too few or too many, or an unknown type, or no one-word answer.
    """
    path = folder / _FILE
    with path.open(encoding="utf-8", newline="") as file, naming_file_errors(path):
        reader = csv.DictReader(file, delimiter="\t")
        lacking = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            raise ValueError(f"{path}, line 1: has no column {lacking[0]!r}, separated by tabs: {reader.fieldnames}")
        for values in reader:
            where = f"{path}, line {reader.line_num}"
            row = Row({name: value for name, value in values.items() if name is not None and value is not None}, where)
            if len(row.values) != len(values):
                raise row.error(f"does not have one value for each of the columns {reader.fieldnames}")
            kind = row.text("type")
            if kind not in _TYPES:
                raise row.error(f"'type' is {kind!r:.60}, not one of {', '.join(_TYPES)}")
            texts = verbatim(row, "question"), one_word(row)
            yield VideoQuestion(row.text("vid_id"), row.text("gif_name"), *texts, _TYPES[kind], row)


TASK = video_task(
    name="tgif_qa",
    title="TGIF-QA",
    count=13691,
    files=(_FILE,),
    questions=_questions,
    download_hint=f"Fetch {_FILE} of YunseokJANG/tgif-qa and TGIF's <gif_name>.gif, "
    "or test_q.json and test_a.json with videos as repackaged for Video-ChatGPT.",
)
