"""`owl2 evaluate --check ROOT`: which benchmarks are complete below the root of the data."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .records import file_hashes
from .runner import missing_media
from .task import Task
from .tasks import TASKS, task_named


@dataclass(frozen=True)
class Finding:
    """What is there of a split of a benchmark.

    Attributes:
        state: "complete", "absent" (no file of it is there), or what is wrong.
        samples, expected: numbers, if they are known.
        files: of annotations, with their hashes.
    """

    task: Task
    split: str
    state: str
    samples: int | None = None
    expected: int | None = None
    files: tuple[dict[str, Any], ...] = ()


def check_data(root: Path) -> Iterator[Finding]:
    """One finding for each split of each benchmark.

    Raises:
        ValueError: the root is not a directory.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a directory")
    for name in TASKS:
        task = task_named(name)
        for split in task.splits:
            yield _check(task, split, root)


def _check(task: Task, split: str, root: Path) -> Finding:
    expected = task.counts.get(split)
    try:
        wanted = task.files(root, split)
        lacking = [file for file in wanted if not file.is_file()]
        if lacking and len(lacking) == len(wanted):
            return Finding(task, split, "absent", expected=expected)
        hashes = tuple(file_hashes((file for file in wanted if file.is_file()), root))
        if lacking:
            return Finding(task, split, f"lacks {lacking[0].relative_to(root)}", expected=expected, files=hashes)
        samples = task.load(root, split, task.prompt_for(split, None))
        missing, total = missing_media(samples)
    except (ValueError, ImportError, OSError) as error:
        return Finding(task, split, str(error), expected=expected)
    state = "complete"
    if missing:
        state = f"lacks {len(missing)} of {total} images or videos, first {missing[0]}"
    elif expected is not None and len(samples) != expected:
        state = f"has {len(samples)} samples where {expected} are expected"
    return Finding(task, split, state, len(samples), expected, hashes)
