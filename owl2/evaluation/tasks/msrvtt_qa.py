"""MSRVTT-QA: short answers about ten thousand web videos (specification, 12)."""

from collections.abc import Iterator
from pathlib import Path

from owl2.evaluation.tasks.shared.video_qa import VideoQuestion, original_questions, video_task


def _questions(folder: Path) -> Iterator[VideoQuestion]:
    return original_questions(folder / "test_qa.json", lambda row: f"video{row.integer('video_id')}")


TASK = video_task(
    name="msrvtt_qa",
    title="MSRVTT-QA",
    count=72821,
    files=("test_qa.json",),
    questions=_questions,
    download_hint="Fetch test_qa.json of xudejing/video-question-answering and MSR-VTT's video<id>.mp4, "
    "or test_q.json and test_a.json with videos as repackaged for Video-ChatGPT.",
)
