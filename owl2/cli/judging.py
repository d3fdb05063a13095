"""The options of a judge, which `owl2 evaluate` and `owl2 score` share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from owl2.evaluation.results.scoring import JudgeSettings

JudgeFlag = Annotated[
    bool, typer.Option("--judge", help="Score also the protocols that need a judge (so do its options).")
]
JudgeModel = Annotated[str | None, typer.Option(help="A judge other than the benchmark's own.")]
JudgeRuns = Annotated[int | None, typer.Option(min=1, help="A number of runs other than the benchmark's.")]
JudgeCache = Annotated[Path | None, typer.Option(metavar="DIR", help="Replies; by default in RUN.")]
JudgeReplay = Annotated[bool, typer.Option("--judge-replay", help="Only replies in the cache.")]
JudgePrompts = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Prompts of judges that replace ours, such as mmvet.txt.")
]


def judge_settings(
    judge: bool,
    model: str | None,
    runs: int | None,
    cache: Path | None,
    replay: bool,
    prompts: Path | None,
    default_cache: Path,
) -> "JudgeSettings | None":
    """The judge that the options describe; any of them asks for one."""
    from owl2.evaluation.results.scoring import JudgeSettings

    if not any((judge, model, runs, cache, replay, prompts)):
        return None
    return JudgeSettings(cache or default_cache, model, runs, replay, prompts=prompts)
