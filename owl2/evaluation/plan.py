"""Plans what a task will predict, without a model: complete samples, and the header of the result."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .prediction_files import file_hashes, ids_hash
from .task import Sample, Task

PROMPT_FORMATS = ("chat", "raw")
"""Whether prompts are put into the chat template `USER: ... ASSISTANT:` or the model continues their text."""


@dataclass(frozen=True)
class Settings:
    """The settings of a task; None takes the task's default.

    Attributes:
        prompt_format: "raw" sends without the chat template what is otherwise sent in it (specification, 13). The
            prompts of some protocols are raw text anyway, such as those of MMLU whose letters are ranked.
    """

    data: Path
    out: Path
    split: str | None = None
    prompt: str | None = None
    suffix: str | None = None
    limit: int | None = None
    batch_size: int = 8
    prompt_format: str = "chat"


@dataclass(frozen=True)
class TaskPlan:
    """The samples to predict, complete and with their files in place, and the header of the result."""

    task: Task
    samples: list[Sample]
    header: dict[str, Any]
    directory: Path


def plan_task(task: Task, settings: Settings, setting_of_model: dict[str, Any]) -> TaskPlan:
    """Loads the samples and checks the files they need, before a model is loaded.

    Args:
        setting_of_model: Entries of the header that describe the model.

    Raises:
        ValueError: A file of the data is missing or broken, an image is missing, an id occurs twice, or a setting is
            unknown.
    """
    _check_prompt_format(settings)
    split = task.chosen("split", settings.split)
    prompt = task.prompt_for(split, settings.prompt)
    files = task.files(settings.data, split)
    suffix = task.suffix if settings.suffix is None else settings.suffix
    whole = _load(task, settings.data, split, prompt, files)
    expected = "chat" if any(sample.uses_chat_template for sample in whole) else "raw"
    samples = whole[: settings.limit]
    if settings.prompt_format == "raw":
        samples = [_raw(sample, suffix) for sample in samples]
    header = {
        "task": task.name,
        "title": task.title,
        "split": split,
        "prompt": prompt,
        "prompt_format": "raw" if settings.prompt_format == "raw" else expected,
        "prompt_format_expected": expected,
        "suffix": suffix,
        "aspect": task.aspect,
        "decoding": {"greedy": True, **asdict(task.decoding_of(prompt))},
        "frames": sorted({sample.clip.num_frames for sample in samples if sample.clip}),
        "samples": len(samples),
        "samples_of_split": len(whole),
        "samples_expected": task.counts.get(split),
        "limit": settings.limit,
        "ids_sha256": ids_hash(sample.id for sample in samples),
        "data": list(file_hashes(files, settings.data)),
        **setting_of_model,
    }
    return TaskPlan(task, samples, json.loads(json.dumps(header)), settings.out / task.name)


def _check_prompt_format(settings: Settings) -> None:
    if settings.prompt_format not in PROMPT_FORMATS:
        raise ValueError(f"the prompt format is {' or '.join(PROMPT_FORMATS)}, not {settings.prompt_format!r}")
    if settings.prompt_format == "raw" and settings.suffix is not None:
        raise ValueError(f"the suffix {settings.suffix!r} follows the chat template, which --prompt-format raw omits")


def _load(task: Task, data: Path, split: str, prompt: str, files: Sequence[Path]) -> list[Sample]:
    if lacking := [file for file in files if not file.is_file()]:
        raise ValueError(f"{task.title} needs {lacking[0]}, which was not found. {task.download_hint}")
    samples = task.load(data, split, prompt)
    check_ids(task, samples)
    missing, total = missing_media(samples)
    if missing:
        raise ValueError(
            f"{task.title}: {len(missing)} of {total} images or videos are missing, first {missing[0]}. "
            f"{task.download_hint}"
        )
    return samples


def _raw(sample: Sample, suffix: str) -> Sample:
    """The sample without the chat template. The text between the template and a ranked choice follows the prompt."""
    if not sample.uses_chat_template:
        return sample
    return replace(sample, uses_chat_template=False, prompt=sample.prompt + (suffix if sample.choices else ""))


def check_ids(task: Task, samples: Sequence[Sample]) -> None:
    """Refuses an empty list of samples, and samples that cannot be told apart.

    Raises:
        ValueError: There is no sample, or two have one id.
    """
    if not samples:
        raise ValueError(f"{task.title} has no samples in its files")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise ValueError(f"{task.title} has two samples of the id {sample.id!r}")
        seen.add(sample.id)


def missing_media(samples: Sequence[Sample]) -> tuple[list[str], int]:
    """The missing images and videos of the samples, and the number that there should be."""
    named = {path for sample in samples for path in _paths(sample)}
    return sorted(str(path) for path in named if not path.is_file()), len(named)


def _paths(sample: Sample) -> Iterator[Path]:
    yield from (image for image in sample.images if isinstance(image, Path))
    if sample.clip is not None:
        yield sample.clip.path
