"""`owl2 evaluate`: run benchmarks, or check their data."""

from pathlib import Path
from typing import Annotated, Any

import typer

from owl2.files import check_output_directory, model_directory

from .completion import complete_tasks
from .judging import JudgeCache, JudgeFlag, JudgeModel, JudgePrompts, JudgeReplay, JudgeRuns, judge_settings
from .model_options import Device, Dtype

EXAMPLE = "owl2 evaluate -m DIR --tasks pope,vqav2 --data data --out runs/evaluation"


def evaluate(
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="DIR", help="Directory of the model.")] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Benchmarks, separated by commas; see --list.", autocompletion=complete_tasks)
    ] = None,
    data: Annotated[
        Path, typer.Option(metavar="ROOT", help="Where the benchmarks lie (docs/evaluation/evaluate.md).")
    ] = Path("data"),
    out: Annotated[Path, typer.Option(metavar="RUN", help="Directory of the results; a second run resumes.")] = Path(
        "runs/evaluation"
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="Answer only the first N samples of each benchmark.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples at a time; it does not change results.")] = 8,
    split: Annotated[str | None, typer.Option(help="A split other than the default, for one task.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A prompt other than the default, for one task.")] = None,
    prompt_format: Annotated[
        str, typer.Option(help="chat, or raw: without the chat template `USER: ... ASSISTANT:`.")
    ] = "chat",
    suffix: Annotated[str | None, typer.Option(help="Text after the chat template.")] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    judge: JudgeFlag = False,
    no_judge: Annotated[bool, typer.Option("--no-judge", help="Only predict where a judge is needed.")] = False,
    judge_model: JudgeModel = None,
    judge_runs: JudgeRuns = None,
    judge_cache: JudgeCache = None,
    judge_replay: JudgeReplay = False,
    judge_prompts: JudgePrompts = None,
    check: Annotated[
        Path | None,
        typer.Option(metavar="ROOT", help="Say which benchmarks are complete; with --tasks, fail unless these are."),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="List the benchmarks with their protocols.")] = False,
) -> None:
    """Run the benchmarks that the paper reports; `torchrun -m owl2 evaluate ...` shares them among GPUs."""
    if show:
        _list()
        return
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    if check is not None:
        _check(check, names, split)
        return
    if model is None or tasks is None:
        raise ValueError("say which model and tasks: --model DIR --tasks vqav2,pope (or --list, or --check ROOT)")
    from owl2.evaluation.tasks import task_named

    for name in names:
        task_named(name)  # before torch: what is mistyped is reported at once
    check_output_directory(out)
    model_directory(model)
    from owl2.evaluation.evaluate import evaluate as run
    from owl2.evaluation.plan import Settings
    from owl2.stop_signal import StopRequested

    settings = Settings(data, out, split, prompt, suffix, limit, batch_size, prompt_format)
    judging = judge_settings(
        judge, judge_model, judge_runs, judge_cache, judge_replay, judge_prompts, out / "judge_cache"
    )
    try:
        run(model, names, settings, judging, no_judge, dtype, device, show_result, show_warning)
    except StopRequested as stop:
        show_warning(f"{stop}; the same command resumes")
        raise typer.Exit(130) from stop


def show_warning(warning: str | None) -> None:
    """Prints a warning, if there is one, as a line on stderr."""
    if warning is not None:
        typer.echo(f"owl2: {warning}", err=True)


def show_result(result: dict[str, Any]) -> None:
    """Prints a result in a few lines."""
    from owl2.evaluation.results.scoring import not_comparable

    counted = f"{result['samples']} of {result['samples_of_split']} samples"
    marks = [*(["raw"] if result["prompt_format"] == "raw" else []), *(["PARTIAL"] if result["partial"] else [])]
    typer.echo(f"{result['title']} ({', '.join([result['split'], counted, *marks])})")
    if warning := not_comparable(result):
        typer.echo(f"  {warning}")
    if not result["protocols"]:
        typer.echo("  not scored: every protocol needs a judge (--judge)")
    for protocol, entry in result["protocols"].items():
        for name, value in entry["summary"].items():
            if isinstance(value, int | float):
                typer.echo(f"  {protocol:<20} {name:<24} {value:.4f}")
        if "judged_by" in entry:
            judged = entry["judged_by"]
            words = "our own" if any(prompt["own_words"] for prompt in judged["prompts"].values()) else "given"
            typer.echo(f"  {protocol:<20} judge {judged['judge']}, {words} prompts, failures {judged['failures']}")


def _list() -> None:
    from owl2.evaluation.tasks import TASKS, task_named

    for name in TASKS:
        task = task_named(name)
        for kind, names in (("splits", task.splits), ("prompts", task.prompts), ("protocols", task.protocols)):
            typer.echo(f"{name if kind == 'splits' else '':<16}{kind:<11}{', '.join(names)}")


def _check(root: Path, tasks: list[str], split: str | None) -> None:
    from owl2.evaluation.data_check import check_data

    lacking = []
    for finding in check_data(root, tasks, split):
        counted = f", {finding.samples} samples" if finding.is_complete and finding.samples else ""
        typer.echo(f"{finding.task.name:<16}{finding.split:<18}{finding.state}{counted}")
        for file in finding.files:
            typer.echo(f"{'':<30}{file['sha256']}  {file['file']}")
        if not finding.is_complete and (tasks or not finding.is_absent):
            lacking.append(f"{finding.task.name} ({finding.split})")
    if lacking:
        show_warning(f"not complete: {', '.join(lacking)}")
        raise typer.Exit(1 if tasks else 0)
