"""Scores of folders of any size: batches, several ranks, a file that an interrupted run adds to."""

from collections.abc import Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from owl2.evaluation.inference.ranks import Ranks
from owl2.evaluation.progress import sample_progress

from .media_files import is_video, written_name
from .protocols import LEVELS
from .score_file import ScoreFile
from .scorer import QualityScorer, Ratings

_READ_AHEAD = 2  # batches of images that are read while the model works


@dataclass
class Outcome:
    """The outcome for the files.

    Attributes:
        scored: Number of files scored in this run; `known` had scores before it.
        problems: Files that could not be scored, with the reason.
    """

    scored: int = 0
    known: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)


def score_files(
    scorer: QualityScorer,
    files: Sequence[str],
    aspects: Sequence[str],
    out: ScoreFile,
    settings: dict[str, Any],
    ranks: Ranks,
) -> Outcome:
    """Scores files that have no row in `out` yet, and adds their rows.

    Each rank takes a contiguous share. Alone, a run writes to the file itself, in the order of the files; the rows of
    several ranks are joined when all have ended.

    Args:
        settings: Settings that are written beside the file, and must be those of the scores in it.

    Returns:
        On the first rank, the outcome of all ranks; on the others, that of their own share.

    Raises:
        ValueError: `out` holds scores of another setting.
    """
    out.check_settings(settings)
    ranks.wait()  # before any rank writes what another might read
    if ranks.is_first:
        if not out.settings_path.is_file():
            out.write_settings(settings)
        out.take_in(out.parts())
    ranks.wait()
    known = {(row["file"], row.get("aspect") or "") for row in out.rows()}
    pending = [file for file in files if not _is_known(written_name(file), aspects, known)]
    outcome = Outcome(known=len(files) - len(pending))
    own = ranks.share(pending)
    target = out if ranks.size == 1 else out.part(ranks.rank)
    with sample_progress(ranks.is_first, Console(stderr=True)) as progress:
        bar = progress.add_task("quality", total=len(own))
        for rows in score_rows(scorer, own, aspects):
            target.add(row for row in rows if (row["file"], row.get("aspect", "")) not in known)
            names = {row["file"]: row.get("problem") for row in rows}
            outcome.problems += [(file, problem) for file, problem in names.items() if problem]
            outcome.scored += sum(1 for problem in names.values() if not problem)
            progress.update(bar, advance=len(names))
    ranks.wait()
    if ranks.is_first and ranks.size > 1:
        parts = out.parts()
        outcome.problems = [
            (row["file"], row["problem"]) for part in parts for row in part.rows() if row.get("problem")
        ]
        outcome.scored = len(pending) - len(outcome.problems)
        out.take_in(parts)
    return outcome


def _is_known(name: str, aspects: Sequence[str], known: Set[tuple[str, str]]) -> bool:
    """Whether a file has a row for every aspect, or one with its problem."""
    return (name, "") in known or all((name, aspect) in known for aspect in aspects)


def score_rows(scorer: QualityScorer, files: Sequence[str], aspects: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows of batches of files in their order: one for each aspect, or one with the `problem` of a bad file.

    Images are read and resized by two threads ahead of the model; no more than a few batches are in memory.
    """
    with ThreadPoolExecutor(2) as pool:
        for batch in _ahead(pool, scorer, list(_batches(files, scorer.batch_size))):
            pixels = {file: found for file, found in batch if isinstance(found, torch.Tensor)}
            ratings = _rate(scorer, list(pixels.values()), aspects)
            index_of = {file: index for index, file in enumerate(pixels)}
            rows: list[dict[str, Any]] = []
            for file, found in batch:
                if isinstance(found, str):
                    rows.append({"file": file, "problem": found})
                elif file in index_of:
                    rows += [_row(file, aspect, ratings[aspect], index_of[file]) for aspect in aspects]
                else:
                    rows += _video_rows(scorer, file, aspects)
            yield [{**row, "file": written_name(row["file"])} for row in rows]


@torch.inference_mode()
def _rate(scorer: QualityScorer, pixels: list[torch.Tensor], aspects: Sequence[str]) -> dict[str, Ratings]:
    return scorer.rate_pixels(torch.cat(pixels), aspects) if pixels else {}


def _video_rows(scorer: QualityScorer, file: str, aspects: Sequence[str]) -> list[dict[str, Any]]:
    try:
        ratings, frames = scorer.rate_video(file, aspects)
    except (ValueError, OSError) as error:
        return [{"file": file, "problem": _first_line(error)}]
    return [{**_row(file, aspect, found, 0), "frames": frames} for aspect, found in ratings.items()]


def _row(file: str, aspect: str, ratings: Ratings, index: int) -> dict[str, Any]:
    numbers = {
        "score": ratings.scores[index],
        "mean": ratings.means[index],
        "deviation": ratings.deviations[index],
        **dict(zip(LEVELS, ratings.probabilities[index], strict=True)),
    }
    return {"file": file, "aspect": aspect, **{name: round(float(value), 6) for name, value in numbers.items()}}


def _batches(files: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (files[start : start + size] for start in range(0, len(files), size))


def _ahead(
    pool: ThreadPoolExecutor, scorer: QualityScorer, batches: Sequence[Sequence[str]]
) -> Iterator[list[tuple[str, torch.Tensor | str | None]]]:
    """Batches with the pixels [1, 3, H, W] of images, None for videos, or what is wrong with a file."""
    started = []
    for number in range(len(batches) + _READ_AHEAD):
        if number < len(batches):
            started.append([(file, pool.submit(_read, scorer, file)) for file in batches[number]])
        if number >= _READ_AHEAD:
            yield [(file, future.result()) for file, future in started.pop(0)]


def _read(scorer: QualityScorer, file: str) -> torch.Tensor | str | None:
    if is_video(file):
        return None
    try:
        return scorer.prepare([file])
    except (ValueError, OSError) as error:
        return _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def run_settings(
    model: str, base: str | None, bits: int | None, scorer: QualityScorer, aspects: Sequence[str]
) -> dict[str, Any]:
    """The settings that scores depend on, for the file beside them."""
    protocol = scorer.protocol
    return {
        "model": str(Path(model).resolve()),
        "base": None if base is None else str(Path(base).resolve()),
        "protocol": protocol.name,
        "prompts": [protocol.text(aspect) for aspect in aspects],
        "begin_token": protocol.begin_token,
        "aspect_ratio": protocol.aspect_ratio,
        "weights": list(protocol.weights),
        "aspects": list(aspects),
        "image_size": scorer.processor.image_processor.size["height"],
        "dtype": str(scorer.model.dtype).removeprefix("torch."),
        "bits": bits,
    }
