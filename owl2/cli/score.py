"""`owl2 score`: score saved predictions again."""

from pathlib import Path
from typing import Annotated

import typer

from owl2.cli.evaluate import show_result


def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run, or of one of its tasks.")],
    protocol: Annotated[
        str | None, typer.Option(help="By default all that need no judge. Tasks of RUN without it are passed over.")
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score though samples are missing; the result says so.")
    ] = False,
    judge: Annotated[
        bool, typer.Option("--judge", help="Score also the protocols that need a judge (so do its options).")
    ] = False,
    judge_model: Annotated[str | None, typer.Option(help="Another judge than the benchmark's own.")] = None,
    judge_runs: Annotated[int | None, typer.Option(min=1, help="Another number of runs than the benchmark's.")] = None,
    judge_cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Replies; by default in RUN.")] = None,
    judge_replay: Annotated[bool, typer.Option("--judge-replay", help="Only replies in the cache.")] = False,
    judge_prompts: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Prompts of judges in the place of ours, such as mmvet.txt.")
    ] = None,
    submission: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the official forms for evaluation servers there.")
    ] = None,
) -> None:
    """Recompute every score from the saved predictions alone, in any protocol, without a model."""
    from owl2.evaluation.scoring import (
        JudgeSettings,
        default_judge_cache,
        score_directory,
        task_directories,
        with_protocol,
        with_submission,
        write_submission,
    )

    judging = None
    if judge or judge_replay or judge_model or judge_runs or judge_cache or judge_prompts:
        cache = judge_cache or default_judge_cache(run)
        judging = JudgeSettings(cache, judge_model, judge_runs, judge_replay, prompts=judge_prompts)
    found = task_directories(run)
    fitting, others = with_protocol(found, protocol) if submission is None else with_submission(found)
    for directory in fitting:
        if submission is not None:
            typer.echo(f"{write_submission(directory, submission)}")
        else:
            show_result(score_directory(directory, protocol, allow_partial, judging))
    for directory in others:
        lacking = f"the protocol {protocol}" if submission is None else "a form for an evaluation server"
        typer.echo(f"{directory.name} passed over: it has not {lacking}")
