"""SEED-Bench: multiple choice on images and videos, 12 types of questions (specification, 7)."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from owl2.data.annotations import Row, image_path, numbered, read_json
from owl2.evaluation.metrics import seed_choice
from owl2.evaluation.task import Clip, Decoding, Prediction, Sample, Scores, Task
from owl2.evaluation.tasks.shared.common import identifier, means_by, verbatim
from owl2.evaluation.tasks.shared.multiple_choice import OWL2_ANSWER_WITH_LETTER, lettered, option_lines

_LETTERS = "ABCD"
_TYPES = range(1, 13)
_FIRST_VIDEO_TYPE = 10
_FOLDERS = {10: "ssv2", 11: "epic_kitchens", 12: "breakfast"}  # of videos by type of question

_SHIPPED = 8  # frames of each video question in the authors' archive
_FRAMES = {"letter": 8, "likelihood": 8, "letter_4_frames": 4, "letter_middle_frame": 1}


def _file(root: Path) -> Path:
    return root / "seed" / "SEED-Bench.json"


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    contents = Row(read_json(_file(root)), str(_file(root)))
    named = Row(contents.values.get("question_type"), f"{contents.where}, question_type")
    types = {named.integer(name): name for name in named.values}
    frames = _shipped_frames(root) if _FRAMES[prompt] == _SHIPPED else {}
    samples = []
    for row in numbered(contents.items("questions"), _file(root)):
        kind = _kind(row)
        if split in ("all", kind):
            samples.append(_sample(root, row, kind, prompt, types, frames))
    return samples


def _shipped_frames(root: Path) -> dict[str, tuple[Path, ...]]:
    """The frames that the authors ship in place of the videos, by question: files `1.png`, `2.png`, ... in a
    folder of its name.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for path in (root / "seed" / "v1_video").rglob("*"):
        if path.suffix in (".png", ".jpg"):
            if not path.stem.isdecimal():
                raise ValueError(f"the frame {path} has no number: expected 1.png, 2.png, ... for each question")
            found[path.parent.name].append(path)
    return {name: tuple(sorted(paths, key=lambda path: int(path.stem))) for name, paths in found.items()}


def _kind(row: Row) -> str:
    """The kind of the question, image or video, on which its type and its data must agree."""
    kind, number = row.text("data_type"), row.integer("question_type_id")
    if number not in _TYPES or kind != ("video" if number >= _FIRST_VIDEO_TYPE else "image"):
        raise row.error(
            f"'question_type_id' {number} with 'data_type' {kind!r}: types 1 to 9 are image, 10 to 12 video"
        )
    return kind


def _sample(
    root: Path, row: Row, kind: str, prompt: str, types: dict[int, str], frames: dict[str, tuple[Path, ...]]
) -> Sample:
    options = lettered(verbatim(row, f"choice_{letter.lower()}") for letter in _LETTERS)
    number, answer = row.integer("question_type_id"), row.text("answer")
    if answer not in options or number not in types:
        raise row.error(f"the answer {answer!r} to a question of type {number}: expected A to D and a type of {types}")
    question = verbatim(row, "question")
    is_ranked = prompt == "likelihood"
    name = identifier(row, "question_id")
    images = (_image(root, row),) if kind == "image" else frames.get(name, ())
    return Sample(
        id=name,
        prompt=question if is_ranked else f"{question}\n{option_lines(options)}\n{OWL2_ANSWER_WITH_LETTER}",
        gold=answer,
        images=images,
        clip=None if images else _clip(root, row, number, prompt),
        choices=tuple(options.values()) if is_ranked else (),
        details={"type": types[number], "data_type": kind, "shipped_frames": len(images) if kind == "video" else 0},
    )


def _image(root: Path, row: Row) -> Path:
    return Path(image_path(root / "seed" / "SEED-Bench-image", row.text("data_id"), row))


def _clip(root: Path, row: Row, number: int, prompt: str) -> Clip:
    """The part of the video: in seconds for EPIC-Kitchens, in frames for Breakfast, all for Something-Something."""
    path = Path(image_path(root / "seed" / "videos" / _FOLDERS[number], row.text("data_id"), row))
    # One frame is LLaVA's, the middle of the part; several are spread as SEED-Bench's program does.
    frames = _FRAMES[prompt]
    spacing: Any = "centres" if frames == 1 else "seed"
    if number == _FIRST_VIDEO_TYPE:
        return Clip(path, frames, spacing=spacing)
    start, end = row.numbers("segment", 2)
    if not 0 <= start < end:
        raise row.error(f"'segment' is {[start, end]}, which is not a part of a video")
    in_frames = all(isinstance(position, int) for position in row.items("segment"))
    if in_frames != (number == max(_TYPES)):
        raise row.error(f"'segment' {row.items('segment')} of type {number}: 11 has seconds (1.0), 12 has frames (1)")
    return Clip(path, frames, start, end, "frames" if in_frames else "seconds", spacing)


def _score(records: Sequence[Prediction], protocol: str) -> Scores:
    parsed = [
        _LETTERS[record.ranking.best()] if protocol == "likelihood" else seed_choice(record.answer, protocol)
        for record in records
    ]
    correct = [float(letter == record.gold) for letter, record in zip(parsed, records, strict=True)]
    summary = {
        "accuracy": fmean(correct),
        "undecided": parsed.count(None),
        "from_shipped_frames": sum(record.details["shipped_frames"] > 0 for record in records),
        **means_by([record.details["data_type"] for record in records], correct),
        "per_type": means_by([record.details["type"] for record in records], correct),
    }
    return Scores(parsed, correct, summary)


def _submission(records: Sequence[Prediction], out: Path) -> Path:
    """One line a question: `question_id` and the letter as `prediction` (the answer itself where it names none)."""
    path = out / "seed.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            if isinstance(record.raw, str):
                letter = seed_choice(record.answer) or record.answer
            else:
                letter = _LETTERS[record.ranking.best()]
            file.write(json.dumps({"question_id": record.id, "prediction": letter}) + "\n")
    return path


_GENERATED = ("first_char", "exact")

TASK = Task(
    name="seed",
    title="SEED-Bench",
    splits=("all", "image", "video"),
    prompts=tuple(_FRAMES),
    protocols=(*_GENERATED, "likelihood"),
    protocols_of={prompt: ("likelihood",) if prompt == "likelihood" else _GENERATED for prompt in _FRAMES},
    files=lambda root, split: [_file(root)],
    load=_load,
    score=_score,
    primary_metric="accuracy",
    download_hint="Put SEED-Bench.json and SEED-Bench-image of AILab-CVC/SEED-Bench into seed/, and the videos of "
    "Something-Something v2, EPIC-KITCHENS-100 and Breakfast into seed/videos/{ssv2,epic_kitchens,breakfast}/, or the "
    "authors' 8 frames of each question, v1_video, into seed/v1_video/.",
    decoding={"": Decoding(max_new_tokens=10)},
    submission=_submission,
    paper_results={("paper_table_2", "seed"): "accuracy", ("readme", "seed"): "accuracy"},
    not_comparable={
        **{
            split: f"the paper reports images and videos together, this is {split} only" for split in ("image", "video")
        },
        "all": "how many frames of a video and which version of the questions (they were revised on 2023-11-30) the "
        "paper used is not published",
    },
)
