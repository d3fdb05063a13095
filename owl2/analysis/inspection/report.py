"""Everything that `owl2 inspect` writes: a figure as PNG and SVG and a table as JSON and Parquet for each measure."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from rich.progress import Progress

from owl2.analysis.attention.figures import save
from owl2.analysis.material import Material
from owl2.analysis.tables import without_nan, write_table
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor

from .alignment import LEAST_SAMPLES, SHUFFLES, alignment_by_layer
from .copies import drift_of_copies
from .figures import draw_alignment, draw_conflict, draw_drift, draw_forgetting, draw_swap
from .forgetting import text_ability
from .gradients import gradient_conflict
from .inputs import encode_fact, encode_question, in_batches
from .swap import causal_swap, swaps

Loaded = tuple[Owl2ForConditionalGeneration, Owl2Processor]

_GRADIENT_BATCH = 8
_OF_COPIES = ("swap", "drift")


class Inspected(NamedTuple):
    """A measure, drawn and as rows."""

    figure: Figure
    rows: list[dict[str, Any]]
    caption: str


class Subject(NamedTuple):
    """What is inspected, and on what.

    Attributes:
        name: Name of the model in figures.
        earlier: Checkpoints of the same training by name, oldest first; each is loaded when it is its turn.
    """

    name: str
    model: Owl2ForConditionalGeneration
    processor: Owl2Processor
    material: Material
    earlier: Mapping[str, Callable[[], Loaded]]
    batch_size: int


def write_inspection(
    subject: Subject, out: Path, only: Sequence[str], progress: Progress, say: Callable[[str], None]
) -> list[Path]:
    """Measures what the module does inside a model, and writes what was found.

    Args:
        only: Some of `measures.MEASURES`; by default all that the model has copies for.
        say: Called with the reason why a measure is left out.

    Returns:
        The files.

    Raises:
        ValueError: A measure that was asked for cannot be taken.
    """
    chosen = list(only) or list(_TAKEN)
    if not only and not has_copies(subject.model):
        say(f"{' and '.join(_OF_COPIES)} are left out: {subject.name} was made without the modality-adaptive module")
        chosen = [name for name in chosen if name not in _OF_COPIES]
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for name in chosen:
        figure, rows, caption = _TAKEN[name](subject, progress)
        files += save(figure, out / name)
        files += write_table(rows, out / name, measure=name, model=subject.name, caption=caption)
    return files


def has_copies(model: Owl2ForConditionalGeneration) -> bool:
    """Whether a model has parameters for vision in its decoder."""
    return bool(model.config.text_config.modality_adaptive)


def _swap(subject: Subject, progress: Progress) -> Inspected:
    model, samples = subject.model, subject.material.about_pictures
    bar = progress.add_task("causal swap", total=swaps(model) * len(samples))
    accuracy, found = causal_swap(
        model,
        subject.processor,
        subject.material.task,
        samples,
        subject.batch_size,
        partial(progress.advance, bar),
    )
    caption = (
        f"{subject.name}: accuracy lost, mean over {len(samples)} questions of {subject.material.task.title}, when "
        "visual tokens take the parameters of text; bars: 95% BCa over questions"
    )
    rows = [
        {"layer": swap.layer, "accuracy": swap.accuracy, "lost": swap.lost, **_ends(swap.interval)} for swap in found
    ]
    return Inspected(draw_swap(accuracy, found, caption), [{**row, "unswapped": accuracy} for row in rows], caption)


def _drift(subject: Subject, progress: Progress) -> Inspected:
    bar = progress.add_task("drift", total=1)
    origin, start = "the parameters of text", None
    for name, load in subject.earlier.items():
        loaded, _ = load()
        if has_copies(loaded):
            origin, start = f"the copies of {name}", loaded
            break
    found = drift_of_copies(subject.model, start)
    progress.advance(bar)
    caption = (
        f"{subject.name}: each copy for vision against {origin}; one number a matrix and layer, nothing is averaged. A "
        "layer whose scale does not matter may drift without effect"
    )
    return Inspected(draw_drift(found, caption), [drift._asdict() for drift in found], caption)


def _conflict(subject: Subject, progress: Progress) -> Inspected:
    model, processor, material = subject.model, subject.processor, subject.material
    text = [encode_fact(processor, each) for each in material.without_pictures]
    pictures = [encode_question(processor, each) for each in material.about_pictures]
    sizes = [max(1, min(_GRADIENT_BATCH, len(each) // 2)) for each in (text, pictures)]
    batches = [
        progress.track(
            in_batches(model, processor, each, size),
            total=math.ceil(len(each) / size),
            description=f"gradients, {kind}",
        )
        for each, size, kind in zip((text, pictures), sizes, ("text", "pictures"), strict=True)
    ]
    found = gradient_conflict(model, *batches)
    caption = (
        f"{subject.name}: cosines of gradients summed over {len(text)} texts and {len(pictures)} questions about "
        "pictures; where the two halves of one modality do not agree either, a cosine says nothing of conflict"
    )
    rows = [without_nan(each._asdict()) for each in found]
    return Inspected(draw_conflict(found, caption), rows, caption)


def _alignment(subject: Subject, progress: Progress) -> Inspected:
    model, processor = subject.model, subject.processor
    questions = subject.material.about_pictures
    if len(questions) < LEAST_SAMPLES:
        raise ValueError(f"the alignment needs at least {LEAST_SAMPLES} questions about pictures, got {len(questions)}")
    encoded = [encode_question(processor, each) for each in questions]
    inputs = (
        {name: values for name, values in batch.items() if name != "labels"}
        for batch in in_batches(model, processor, encoded, 1)
    )
    found = alignment_by_layer(model, progress.track(inputs, total=len(encoded), description="alignment"))
    caption = (
        f"{subject.name}: a picture's mean visual token and the mean token of its question and answer, over "
        f"{found.samples} questions of {subject.material.task.title}, which may read the picture; {SHUFFLES} random "
        "pairings beside"
    )
    rows = [
        {"hidden_state": index, "cka": cka, "shuffled": mean, "shuffled_deviation": deviation}
        for index, (cka, mean, deviation) in enumerate(zip(*found[:3], strict=True))
    ]
    return Inspected(draw_alignment(found, caption), rows, caption)


def _forgetting(subject: Subject, progress: Progress) -> Inspected:
    corpus, questions = subject.material.corpus, subject.material.without_pictures
    bar = progress.add_task("forgetting", total=(len(subject.earlier) + 1) * (len(corpus) + len(questions)))
    loads = {**subject.earlier, subject.name: lambda: (subject.model, subject.processor)}
    found = {}
    for name, load in loads.items():
        advance = partial(progress.advance, bar)
        found[name] = text_ability(*load(), corpus, questions, subject.batch_size, advance)
    caption = (
        f"perplexity per token over {len(corpus)} texts, and answers to {len(questions)} questions without pictures; "
        "bars: 95% bootstrap over texts and over questions. A new style moves the perplexity too"
    )
    rows = [
        {
            "checkpoint": name,
            "perplexity": each.perplexity,
            **_ends(each.perplexity_interval, "perplexity_"),
            "accuracy": each.accuracy,
            **_ends(each.accuracy_interval, "accuracy_"),
        }
        for name, each in found.items()
    ]
    return Inspected(draw_forgetting(found, caption), rows, caption)


def _ends(interval: tuple[float, float], prefix: str = "") -> dict[str, float | None]:
    return without_nan({f"{prefix}{end}": value for end, value in zip(("low", "high"), interval, strict=True)})


_TAKEN: dict[str, Callable[[Subject, Progress], Inspected]] = {
    "swap": _swap,
    "drift": _drift,
    "conflict": _conflict,
    "alignment": _alignment,
    "forgetting": _forgetting,
}
