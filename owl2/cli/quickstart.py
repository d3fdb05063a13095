"""`owl2 quickstart`: the whole life of the model on a laptop."""

from pathlib import Path
from typing import Annotated, Any

import typer

from owl2.environment import restart_with_fast_allocation
from owl2.files import check_output_directory

from .errors import EXIT_CODE, show_error

EXAMPLE = "owl2 quickstart --preset nano"


def quickstart(
    preset: Annotated[
        str, typer.Option(help="nano: a language model trained on the spot; smol: SmolLM2-135M.")
    ] = "nano",
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/quickstart-PRESET by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all stages.")] = 0,
) -> None:
    """Train a language model (or take SmolLM2), run both stages of the paper on easy-VQA, measure, and draw a report.

    Ctrl-C stops after the current step; the same command continues.
    """
    from owl2.quickstart.presets import check_preset

    check_preset(preset)  # before torch: what is mistyped is reported at once
    directory = out or Path("runs") / f"quickstart-{preset}"
    check_output_directory(directory)
    restart_with_fast_allocation()
    from rich.console import Console
    from transformers.utils import logging

    from owl2.quickstart.pipeline import Interrupted, Quickstart
    from owl2.training.monitoring.loss_spikes import TrainingDiverged

    logging.disable_progress_bar()  # of loading and saving weights: ours say more
    console = Console()
    run = Quickstart(preset, directory, console, seed)
    finished = run.finished_metrics()
    if finished is not None:
        console.print(f"{directory} holds a finished run; remove it or choose another --out to run again.")
        _show(finished, directory, console)
        return
    try:
        metrics = run.run()
    except (Interrupted, KeyboardInterrupt) as stop:
        run.keep_costs()
        console.print(f"\n{stop or 'Stopped.'} Run the same command to continue.")
        raise typer.Exit(130) from stop
    except TrainingDiverged as error:
        show_error(error)
        raise typer.Exit(EXIT_CODE) from error
    _show(metrics, directory, console)


def _show(metrics: dict[str, Any], directory: Path, console: Any) -> None:
    from rich.table import Table

    table = Table(title=f"Quickstart {metrics['preset']}")
    table.add_column("measured")
    table.add_column("value", justify="right")
    for name in ("accuracy", "accuracy_blind", "accuracy_majority"):
        table.add_row(name.replace("_", ", "), f"{metrics[name]:.1%}")
    for when in ("before", "after"):
        table.add_row(f"perplexity of English {when}", f"{metrics[f'perplexity_{when}']:.2f}")
        table.add_row(f"facts {when}", f"{metrics[f'facts_{when}']} of {metrics['fact_questions']}")
    table.add_row("time", f"{metrics['seconds']:.0f} s")
    table.add_row("peak memory", f"{metrics['peak_memory_bytes'] / 2**30:.2f} GiB")
    console.print(table)
    model = directory / "checkpoint"
    console.print(
        f"Report: {directory / 'report.md'}\n"
        f"Chat:   owl2 chat --model {model} --image FILE\n"
        f"Page:   owl2 serve --model {model}"
    )
