"""`owl2 quality`: score images and videos."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .model_options import Base, Bits, Device, Dtype

if TYPE_CHECKING:
    from owl2.quality.run import Outcome

SHOWN_PROBLEMS = 8
"""The number of files that could not be scored that the terminal names; the file of scores names all."""

EXAMPLE = "owl2 quality pictures -m DIR --out scores.csv"


def quality(
    inputs: Annotated[
        list[str], typer.Argument(metavar="IMAGES|FOLDER|LIST", help="Images, videos, folders, or .txt lists of them.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", metavar="DIR", help="Directory of the model.")],
    base: Base = None,
    bits: Bits = None,
    aspect: Annotated[
        list[str] | None, typer.Option(help="quality (the default), aesthetics, or another word; may be repeated.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="q_align, q_align_scorer, q_align_repository, evaluation, deqa or pyiqa_0_1_16.")
    ] = "q_align",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="scores.csv or scores.jsonl; a second run resumes.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; it does not change scores.")] = 8,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Score images and videos; `torchrun -m owl2 quality ... --out FILE` shares them among GPUs.

    Without --out, a line with score, aspect and file is printed for each.
    """
    from owl2.files import model_directory
    from owl2.quality.media_files import media_files
    from owl2.quality.protocols import protocol_named
    from owl2.quality.score_file import ScoreFile

    aspects = list(dict.fromkeys(aspect or ["quality"]))
    for each in aspects:
        protocol_named(protocol).text(each)
    target = None if out is None else ScoreFile(out)
    files = media_files(inputs)
    model_directory(model)

    from transformers.utils import logging

    from owl2.quality.command import print_scores, write_scores

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    loading = (model, protocol, aspects, batch_size, dtype, device, base, bits)
    if target is None:
        _conclude(print_scores(*loading, files, typer.echo), len(files), out)
    else:
        _conclude(write_scores(*loading, files, target), len(files), out)


def _conclude(outcome: "Outcome | None", count: int, out: Path | None) -> None:
    if outcome is None:  # another rank than the first
        return
    for file, problem in outcome.problems[:SHOWN_PROBLEMS]:
        named = problem if file in problem else f"{file}: {problem}"
        typer.echo(f"owl2: not scored: {named}", err=True)
    if len(outcome.problems) > SHOWN_PROBLEMS:
        typer.echo(f"owl2: and {len(outcome.problems) - SHOWN_PROBLEMS} more", err=True)
    if outcome.problems and not outcome.scored and not outcome.known:
        raise ValueError(f"none of the {count} files could be scored")
    if out is not None:
        known = f", {outcome.known} were there before" if outcome.known else ""
        bad = f", {len(outcome.problems)} could not be scored" if outcome.problems else ""
        typer.echo(f"{out}: {outcome.scored} of {count} files scored{known}{bad}")
