"""`owl2 score`: score saved predictions again."""

from pathlib import Path
from typing import Annotated

import typer

from owl2.files import check_output_directory

from .completion import complete_tasks
from .evaluate import show_result, show_warning
from .judging import JudgeCache, JudgeFlag, JudgeModel, JudgePrompts, JudgeReplay, JudgeRuns, judge_settings

EXAMPLE = "owl2 score runs/evaluation --protocol vqa_owl2"


def score(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Directory of a run, or of one of its tasks.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="By default all that need neither judge nor Java. Tasks of RUN without it are passed over."),
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score even if samples are missing; the result says so.")
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
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Score answers of another program, with their ids; needs --task."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="The benchmark of --answers.", autocompletion=complete_tasks)] = None,
    data: Annotated[Path, typer.Option(metavar="ROOT", help="Where its data lies.")] = Path("data"),
    out: Annotated[Path, typer.Option(metavar="RUN", help="Where the predictions and scores of --answers go.")] = Path(
        "runs/answers"
    ),
    split: Annotated[str | None, typer.Option(help="Its split, if it is not the default.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Its prompt, if it is not the default.")] = None,
) -> None:
    """Recompute every score from the saved predictions alone, in any protocol, without a model.

    With `--answers` and `--task` the answers of another program are scored.
    """
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

    if (run is None) == (answers is None) or (answers is None) != (task is None):
        raise ValueError("give the directory of a run, or --answers FILE and --task NAME")
    for option, directory in (("--out", out if run is None else None), ("--submission", submission)):
        if directory is not None:
            check_output_directory(directory, option)
    if run is None:
        run = _adopt(answers, task, data, out, split, prompt)
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


def _adopt(
    answers: Path | None, task: str | None, data: Path, out: Path, split: str | None, prompt: str | None
) -> Path:
    """The directory of the answers of another program, as predictions."""
    from owl2.evaluation.other_answers import adopt_answers
    from owl2.evaluation.plan import Settings
    from owl2.evaluation.tasks import task_named

    assert answers is not None and task is not None, "the command line was checked"
    return adopt_answers(task_named(task), answers, Settings(data, out, split, prompt))
