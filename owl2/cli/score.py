"""`owl2 score`: score saved predictions again."""

from pathlib import Path
from typing import Annotated

import typer

from .evaluate import show_result, show_warning
from .judging import JudgeCache, JudgeFlag, JudgeModel, JudgePrompts, JudgeReplay, JudgeRuns, judge_settings

EXAMPLE = "owl2 score runs/evaluation --protocol vqa_owl2"


def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run, or of one of its tasks.")],
    protocol: Annotated[
        str | None,
        typer.Option(help="By default all that need neither judge nor Java. Tasks of RUN without it are passed over."),
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score though samples are missing; the result says so.")
    ] = False,
    judge: JudgeFlag = False,
    judge_model: JudgeModel = None,
    judge_runs: JudgeRuns = None,
    judge_cache: JudgeCache = None,
    judge_replay: JudgeReplay = False,
    judge_prompts: JudgePrompts = None,
    submission: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the official forms for evaluation servers there.")
    ] = None,
) -> None:
    """Recompute every score from the saved predictions alone, in any protocol, without a model."""
    from owl2.evaluation.prediction_files import PREDICTIONS, read_header
    from owl2.evaluation.results.scoring import (
        default_judge_cache,
        not_comparable,
        score_directory,
        task_directories,
        with_protocol,
        with_submission,
        write_submission,
    )

    judging = judge_settings(
        judge, judge_model, judge_runs, judge_cache, judge_replay, judge_prompts, default_judge_cache(run)
    )
    found = task_directories(run)
    fitting, others = with_protocol(found, protocol) if submission is None else with_submission(found)
    for directory in fitting:
        if submission is not None:
            typer.echo(f"{write_submission(directory, submission)}")
            show_warning(not_comparable(read_header(directory / PREDICTIONS)))
        else:
            show_result(score_directory(directory, protocol, allow_partial, judging))
    for directory, reason in others.items():
        typer.echo(f"{directory.name} passed over: {reason}")
