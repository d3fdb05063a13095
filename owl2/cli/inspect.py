"""`owl2 inspect`: what the modality-adaptive module does inside a trained model."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .model_names import model_names
from .model_options import Device, Dtype

EXAMPLE = "owl2 inspect -m runs/quickstart-nano/checkpoint --out inspection"


def inspect(
    model: Annotated[str, typer.Option("--model", "-m", metavar="DIR", help="Directory of the model.")],
    out: Annotated[Path, typer.Option(help="Directory of the figures and tables.")],
    before: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="An earlier checkpoint of the same training; several: oldest first."),
    ] = None,
    data: Annotated[
        str, typer.Option(help="easy_vqa, scenes_simple, scenes_easy, scenes or scenes_hard.")
    ] = "easy_vqa",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="MEASURE", help="swap, drift, conflict, alignment or forgetting; all by default."),
    ] = None,
    limit: Annotated[int, typer.Option(min=4, help="Most questions and texts of each kind.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions that are answered at a time.")] = 64,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Look inside the module: what its copies do, how far they moved, conflict, alignment, forgetting.

    A figure and a table each: accuracy lost when visual tokens take the parameters of text (causal swap), drift of the
    copies, conflict of text and picture gradients beside its noise, debiased CKA beside shuffled pairs, and text before
    and after training.
    """
    from owl2.files import check_output_directory, model_directory

    check_output_directory(out)
    directories = [model_directory(each) for each in (*(before or []), model)]
    from owl2.analysis.inspection.measures import MEASURES
    from owl2.analysis.material import material

    unknown = [name for name in only or [] if name not in MEASURES]
    if unknown:
        raise ValueError(f"--only takes {', '.join(MEASURES)}, not {unknown[0]!r}")
    found = material(data, limit)
    from rich.console import Console

    from owl2.analysis.inspection.report import Subject, write_inspection
    from owl2.checkpoints.loading import load_for_chat
    from owl2.evaluation.progress import sample_progress

    names = model_names(directories)
    load = partial(load_for_chat, dtype=dtype, device=device)
    earlier = {name: partial(load, directory) for name, directory in zip(names[:-1], directories[:-1], strict=True)}
    subject = Subject(names[-1], *load(directories[-1]), found, earlier, batch_size)
    console = Console(stderr=True)
    with sample_progress(True, console) as progress:
        files = write_inspection(subject, out, only or [], progress, console.print)
    for file in files:
        typer.echo(str(file))
