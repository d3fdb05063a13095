"""`owl2 evaluate --check ROOT`: which benchmarks are complete below the root of the data, by counts and hashes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .plan import check_ids, missing_media
from .prediction_files import file_hashes
from .task import Task
from .tasks import TASKS, task_named

_COMPLETE, _ABSENT = "complete", "absent"


@dataclass(frozen=True)
class SplitFinding:
    """What was found for a split of a benchmark.

    Attributes:
        state: "complete", "absent" (no file of it exists), or what is wrong.
        samples: Number of samples, if they are read from files and can be.
        files: Annotation files, with their hashes.
    """

    task: Task
    split: str
    state: str
    samples: int | None = None
    files: tuple[dict[str, Any], ...] = ()

    @property
    def is_complete(self) -> bool:
        return self.state == _COMPLETE

    @property
    def is_absent(self) -> bool:
        return self.state == _ABSENT


def check_data(root: Path, tasks: Sequence[str] = (), split: str | None = None) -> Iterator[SplitFinding]:
    """Yields a finding for each split of all benchmarks, or for the split of each of `tasks`.

    Args:
        split: The split to check in place of the default, where `tasks` has one benchmark.

    Raises:
        ValueError: The root is not a directory; there is no such benchmark or split, or a split is given for several
            benchmarks.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a directory")
    if split is not None and len(tasks) != 1:
        raise ValueError(f"--split belongs to one task, got {', '.join(tasks) or 'none'}")
    for task in map(task_named, tasks or TASKS):
        for name in [task.chosen("split", split)] if tasks else task.splits:
            yield _check(task, name, root)


def _check(task: Task, split: str, root: Path) -> SplitFinding:
    if task.is_generated:
        return SplitFinding(task, split, _COMPLETE)
    try:
        wanted = task.files(root, split)
        lacking = [file for file in wanted if not file.is_file()]
        if lacking and len(lacking) == len(wanted):
            return SplitFinding(task, split, _ABSENT)
        hashes = tuple(file_hashes((file for file in wanted if file.is_file()), root))
        if lacking:
            return SplitFinding(task, split, f"lacks {lacking[0].relative_to(root)}", files=hashes)
        samples = task.load(root, split, task.prompt_for(split, None))
        check_ids(task, samples)
        missing, total = missing_media(samples)
    except (ValueError, ImportError, OSError) as error:
        return SplitFinding(task, split, str(error))
    state, expected = _COMPLETE, task.counts.get(split)
    if missing:
        state = f"lacks {len(missing)} of {total} images or videos, first {missing[0]}"
    elif expected is not None and len(samples) != expected:
        state = f"has {len(samples)} samples where {expected} are expected"
    return SplitFinding(task, split, state, len(samples), hashes)
