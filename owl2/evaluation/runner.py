"""Runs a model over a task: batches, ranks, resuming, and the file of predictions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from owl2.evaluation.inference.predictor import Predictor, Prepared
from owl2.evaluation.inference.ranks import Ranks
from owl2.files import cut_after_last_line, errors_name
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor
from owl2.stop_signal import StopRequested

from .plan import TaskPlan
from .prediction_files import PREDICTIONS, header_line, line_of, read_partial, read_predictions, write_predictions
from .progress import sample_progress
from .task import Prediction, Sample

_GROUPED = 16  # batches, of samples with one image, among which samples of like length are brought together


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
    """Predicts the samples that are not predicted yet, and writes the whole file when all are.

    A run that was killed resumes where it stopped, on any number of ranks.

    Args:
        on_batch: Called with the number of samples that this rank has predicted and their total, in place of a progress
            bar.
        known: The result of `known_predictions`, if it was called already.
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
    """Predicts one batch after the other. Images of the next samples are read while the model works."""
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
    """Batches of similar length. Samples to rank stay in their order, in which they share their beginnings."""
    ranked = [entry for entry in block if entry.choices is not None]
    answered = sorted((entry for entry in block if entry.choices is None), key=_length)
    for group in (ranked, answered):
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def _length(entry: Prepared) -> int:
    return len(entry.tokens["input_ids"])


def known_predictions(plan: TaskPlan) -> dict[str, Prediction]:
    """The existing predictions, by id.

    Raises:
        ValueError: The directory holds predictions of another setting (it is named).
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
