"""MSVD-QA: short answers about clips of one action (specification, 12)."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from owl2.data.annotations import Row
from owl2.evaluation.tasks.shared.common import naming_file_errors
from owl2.evaluation.tasks.shared.video_qa import VideoQuestion, original_questions, video_task

_FILES = ("test_qa.json", "youtube_mapping.txt")


def clip_names(path: Path) -> dict[str, str]:
    """The name of each clip, such as `-4wsuPCjDBc_5_15`, by its number, such as `vid1`.

    Raises:
        ValueError: A line is not a name and a number, or a number occurs twice.
    """
    names: dict[str, str] = {}
    with naming_file_errors(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    for line_number, line in enumerate(lines, start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or not parts[1].startswith("vid") or parts[1] in names:
            raise ValueError(f"{path}, line {line_number}: expected a clip and a vid number of its own, found {line!r}")
        names[parts[1]] = parts[0]
    return names


def _questions(folder: Path) -> Iterator[VideoQuestion]:
    questions, mapping = (folder / name for name in _FILES)
    return original_questions(questions, partial(_clip, clip_names(mapping), mapping))


def _clip(names: dict[str, str], mapping: Path, row: Row) -> str:
    number = f"vid{row.integer('video_id')}"
    if number not in names:
        raise row.error(f"{mapping} has no clip for {number}")
    return names[number]


TASK = video_task(
    name="msvd_qa",
    title="MSVD-QA",
    count=13157,
    files=_FILES,
    questions=_questions,
    download_hint="Fetch test_qa.json and youtube_mapping.txt of xudejing/video-question-answering and MSVD's "
    "YouTubeClips (<clip>.avi), or test_q.json and test_a.json with videos as repackaged for Video-ChatGPT.",
)
