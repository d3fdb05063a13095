"""Runs a model over a task: batches, ranks, resuming, and the file of predictions."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from owl2.evaluation.inference.predictor import Predictor, Prepared
from owl2.evaluation.inference.ranks import Ranks
from owl2.files import cut_after_last_line, errors_name
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor
from owl2.stop_signal import StopRequested

from .prediction_files import (
    PREDICTIONS,
    file_hashes,
    header_line,
    ids_hash,
    line_of,
    read_partial,
    read_predictions,
    write_predictions,
)
from .progress import sample_progress
from .task import Prediction, Sample, Task

PROMPT_FORMATS = ("chat", "raw")
"""Whether prompts are put into the chat template `USER: ... ASSISTANT:` or the model continues their text."""

_GROUPED = 16  # batches, of samples with one image, among which samples of like length are brought together


@dataclass(frozen=True)
class Settings:
    """How a task is run; None takes the task's default.

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
    """What is to be predicted: the samples, complete and with their files in place, and the header of the result."""

    task: Task
    samples: list[Sample]
    header: dict[str, Any]
    directory: Path


def plan_task(task: Task, settings: Settings, setting_of_model: dict[str, Any]) -> TaskPlan:
    """Loads the samples and checks the files they need, before any model is.

    Args:
        setting_of_model: goes into the header.

    Raises:
        ValueError: a file of the data is missing or broken, an image is missing, an id occurs twice, or a setting is
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
    """The sample without the chat template. What stood between it and a ranked choice follows the prompt."""
    if not sample.uses_chat_template:
        return sample
    return replace(sample, uses_chat_template=False, prompt=sample.prompt + (suffix if sample.choices else ""))


def check_ids(task: Task, samples: Sequence[Sample]) -> None:
    """Refuses samples that cannot be told apart, or none.

    Raises:
        ValueError: there is no sample, or two have one id.
    """
    if not samples:
        raise ValueError(f"{task.title} has no samples in its files")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise ValueError(f"{task.title} has two samples of the id {sample.id!r}")
        seen.add(sample.id)


def missing_media(samples: Sequence[Sample]) -> tuple[list[str], int]:
    """The images and videos of the samples that are missing, and how many there should be."""
    named = {path for sample in samples for path in _paths(sample)}
    return sorted(str(path) for path in named if not path.is_file()), len(named)


def _paths(sample: Sample) -> Iterator[Path]:
    yield from (image for image in sample.images if isinstance(image, Path))
    if sample.clip is not None:
        yield sample.clip.path


def predict(
    plan: TaskPlan,
    model: Owl2ForConditionalGeneration,
    processor: Owl2Processor,
    ranks: Ranks,
    batch_size: int = 8,
    on_batch: Callable[[int, int], None] | None = None,
    known: Mapping[str, Prediction] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, Any], list[Prediction]] | None:
    """Predicts what is not predicted yet, and writes the whole file when all is.

    A run that was killed resumes where it stopped, on any number of ranks.

    Args:
        on_batch: Told how many samples of how many this rank has predicted, in place of a progress bar.
        known: What `known_predictions` found, if it was asked already.
        stopped: Whether to stop; asked before each batch.

    Returns:
        Header and predictions, in the order of the samples; None on all ranks but the first.

    Raises:
        StopRequested: A rank was asked to stop; the others raise it after their share, if they were not asked.
        ValueError: The directory holds predictions of another setting (it is named).
    """
    plan.directory.mkdir(parents=True, exist_ok=True)
    known = known_predictions(plan) if known is None else known
    ranks.wait()  # before any rank writes what another might read
    pending = [sample for sample in plan.samples if sample.id not in known]
    decoding = plan.task.decoding_of(plan.header["prompt"])
    predictor = Predictor(model, processor, plan.task, decoding, plan.header["suffix"])
    own = ranks.share(pending)
    with sample_progress(ranks.is_first and on_batch is None) as progress:
        bar = progress.add_task(plan.task.title, total=len(own))
        path, done = plan.directory / f"partial-{ranks.rank}.jsonl", 0
        for records in _predicted(predictor, own, batch_size, stopped):
            _append(path, plan.header, records)
            done += len(records)
            progress.update(bar, completed=done)
            if on_batch is not None:
                on_batch(done, len(own))
    if ranks.any_of(done < len(own)):
        predicted = len(plan.samples) - len(pending) + done
        of_rank = "" if ranks.size == 1 else f" (rank {ranks.rank})"
        raise StopRequested(
            f"stopped after {predicted} of {len(plan.samples)} samples of {plan.task.title}{of_rank}, which are saved"
        )
    if not ranks.is_first:
        return None
    if pending:
        known = known_predictions(plan)
    ordered = [known[sample.id] for sample in plan.samples]
    if pending or not (plan.directory / PREDICTIONS).is_file():
        write_predictions(plan.directory / PREDICTIONS, plan.header, ordered, None)
    for partial in plan.directory.glob("partial-*.jsonl"):
        partial.unlink()
    return plan.header, ordered


def _predicted(
    predictor: Predictor, samples: Sequence[Sample], batch_size: int, stopped: Callable[[], bool]
) -> Iterator[list[Prediction]]:
    """Records of one batch after the other. Images of the next samples are read while the model works."""
    pictures = max((each.clip.num_frames if each.clip else len(each.images) for each in samples), default=1)
    window = batch_size * max(1, _GROUPED // max(1, pictures))  # twice as many samples wait in memory
    with ThreadPoolExecutor(2) as pool:
        prepared = (pool.submit(predictor.prepare, sample) for sample in samples)
        ahead = [future for _, future in zip(range(window), prepared, strict=False)]
        while ahead:
            block = [future.result() for future in ahead]
            ahead = [future for _, future in zip(range(window), prepared, strict=False)]
            for batch in _batches(block, batch_size):
                if stopped():
                    pool.shutdown(cancel_futures=True)
                    return
                yield predictor.predict(batch)


def _batches(block: Sequence[Prepared], batch_size: int) -> Iterator[list[Prepared]]:
    """Batches of like length. Samples to rank stay in their order, in which they share their beginnings."""
    ranked = [entry for entry in block if entry.choices is not None]
    answered = sorted((entry for entry in block if entry.choices is None), key=_length)
    for group in (ranked, answered):
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def _length(entry: Prepared) -> int:
    return len(entry.tokens["input_ids"])


def known_predictions(plan: TaskPlan) -> dict[str, Prediction]:
    """What is predicted already, by id.

    Raises:
        ValueError: the directory holds predictions of another setting (it is named).
    """
    directory, known = plan.directory, {}
    found = [read_partial(path) for path in sorted(directory.glob("partial-*.jsonl"))]
    if (directory / PREDICTIONS).is_file():
        found.append(read_predictions(directory / PREDICTIONS))
    for header, records in found:
        _check_same(header, plan)
        known.update({record.id: record for record in records})
    return known


def _check_same(header: dict[str, Any], plan: TaskPlan) -> None:
    wanted = plan.header
    ignored = {"versions", "samples", "limit", "ids_sha256"}  # more or fewer samples of the same setting fit together
    differing = [name for name in wanted if name not in ignored and header and header.get(name) != wanted[name]]
    if differing:
        name, there, now = differing[0], header.get(differing[0]), wanted[differing[0]]
        if isinstance(there, dict) and isinstance(now, dict):
            part = next(key for key in {**there, **now} if there.get(key) != now.get(key))
            name, there, now = f"{name}.{part}", there.get(part), now.get(part)
        raise ValueError(
            f"{plan.directory} holds predictions of another setting: {name} is {there!r:.80} there "
            f"and {now!r:.80} now. Choose another --out"
        )


def _append(path: Path, header: dict[str, Any], records: Sequence[Prediction]) -> None:
    if path.is_file():
        cut_after_last_line(path)  # a line that was cut off must not swallow the next
    is_new = not path.is_file() or path.stat().st_size == 0
    with errors_name(path), path.open("a", encoding="utf-8") as file:
        file.write((header_line(header) if is_new else "") + "".join(map(line_of, records)))
