"""Imports predictions saved by programs in the manner of Video-ChatGPT, to score them here (specification, 12).

    import_predictions("pred.json", "msvd_qa", "runs/other")  # then: owl2 score runs/other --judge

Its inference saves records of `id`, `question`, `answer` and `pred`, its judge reads `video_name`, `Q`, `A` and `pred`:
either is taken, as a JSON list or one record a line.
"""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from owl2.data.annotations import AnyPath
from owl2.evaluation.prediction_files import PREDICTIONS, file_hashes, ids_hash, write_predictions
from owl2.evaluation.task import Prediction
from owl2.evaluation.tasks.shared.common import identifier, list_or_line_rows
from owl2.evaluation.tasks.shared.video_qa import JUDGED

from . import task_named

IMPORTED = "imported"
"""The name in the header of the prompt, which is unknown."""


def import_predictions(path: AnyPath, task: str, run: AnyPath) -> Path:
    """Writes the predictions of a file as those of a run, and returns the directory that `owl2 score` takes.

    Args:
        task: One of the benchmarks of video question answering.

    Raises:
        ValueError: The task is another, a record lacks a field, there is none, or the run has predictions already.
    """
    known, source = task_named(task), Path(path)
    if known.judged is None or JUDGED not in known.judged.protocols:
        raise ValueError(f"{task} is not a benchmark of video question answering: its predictions have another form")
    directory = Path(run) / task
    if (directory / PREDICTIONS).exists():
        raise ValueError(f"{directory} holds predictions already: choose another directory")
    records = list(_records(source))
    if not records:
        raise ValueError(f"{source} has no predictions")
    header = {
        "task": task,
        "title": known.title,
        "split": known.splits[0],
        "prompt": IMPORTED,
        "samples": len(records),
        "samples_of_split": len(records),
        "samples_expected": known.counts[known.splits[0]],
        "ids_sha256": ids_hash(record.id for record in records),
        "data": list(file_hashes([source], source.parent)),
        "model": {"name": source.name},
    }
    directory.mkdir(parents=True, exist_ok=True)
    write_predictions(directory / PREDICTIONS, header, records, None)
    return directory


def _records(path: Path) -> Iterator[Prediction]:
    """The records, each with an id of its own: the second of a name is `name_1`, as the official judge renames it."""
    taken: set[str] = set()
    for row in list_or_line_rows(path):
        by_judge = "Q" in row.values
        names = ("video_name", "Q", "A") if by_judge else ("id", "question", "answer")
        name = identifier(row, names[0])
        own = next(each for each in _renamed(name) if each not in taken)
        taken.add(own)
        details = {"question": row.text(names[1]), "video": name}
        yield Prediction(own, "", row.string("pred"), row.text(names[2]), details)


def _renamed(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in count(1))
