"""`owl2 evaluate`: every task is checked before a model is loaded; then each is predicted and scored."""

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from owl2 import __version__
from owl2.checkpoints.loading import load_for_chat
from owl2.evaluation.inference.ranks import Ranks
from owl2.evaluation.results.scoring import JudgeSettings, not_comparable, score_directory
from owl2.stop_signal import stop_signal

from .plan import Settings, plan_task
from .prediction_files import file_hashes
from .runner import known_predictions, predict
from .task import Task
from .tasks import task_named

_PACKAGES = ("torch", "transformers", "pillow")
_PROCESSING = ("*processor_config.json", "tokenizer*", "chat_template*", "adapter_config.json")
"""Files that decide how images and texts are processed, and which model an adapter belongs to."""


def evaluate(
    model: str,
    tasks: Sequence[str],
    settings: Settings,
    judge: JudgeSettings | None = None,
    no_judge: bool = False,
    dtype: str = "auto",
    device: str = "auto",
    on_result: Callable[[dict[str, Any]], None] = lambda result: None,
    on_warning: Callable[[str], None] = lambda warning: None,
) -> list[dict[str, Any]]:
    """Predicts and scores tasks, on all ranks that `torchrun` started.

    Args:
        judge: Also score under the protocols that need a judge. Without it, only the benchmarks that have no other
            protocol ask their own judge, unless `no_judge`.
        on_result: Called with each result.
        on_warning: Called, before a model is loaded, for each split whose number of samples is not the official one.

    Returns:
        The results; an empty list on all ranks but the first.

    Raises:
        StopRequested: Ctrl-C or SIGTERM, after the batch in progress was saved; the same call resumes.
        ValueError: A task or a setting is unknown, a file or image is missing, a judge lacks its key, the directory
            holds predictions of another setting, a prompt does not fit the context.
    """
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(
            f"expected one task or more, each once, got {', '.join(tasks) or 'none'}; owl2 evaluate --list"
        )
    known = [task_named(name) for name in tasks]
    if len(known) > 1 and (settings.split or settings.prompt):
        raise ValueError(f"--split and --prompt belong to one task, got {len(known)} tasks: {', '.join(tasks)}")
    judges = _judges(known, settings, judge, no_judge)
    described = _description(model, dtype)
    plans = [plan_task(task, settings, described) for task in known]
    known_before = [known_predictions(planned) for planned in plans]  # refuses those of another setting
    ranks, results = Ranks(), []
    for planned in plans:
        if ranks.is_first and (warning := not_comparable(planned.header)):
            of_split = f"{planned.task.title} ({planned.header['split']})"
            on_warning(f"{of_split}: {warning}, these files have {planned.header['samples_of_split']}")
    with ranks:
        loaded, processor = load_for_chat(model, dtype, ranks.device(device))
        for task, planned, done in zip(known, plans, known_before, strict=True):
            with stop_signal() as stopped:
                found = predict(planned, loaded, processor, ranks, settings.batch_size, known=done, stopped=stopped)
            if found is None:
                continue
            usable = task.protocols_for(planned.header["prompt"])
            if task.judged is not None and set(usable) <= {*task.judged.protocols} and task.name not in judges:
                continue  # predictions for a judge to come
            results.append(score_directory(planned.directory, judge=judges.get(task.name)))
            on_result(results[-1])
    return results


def _judges(
    tasks: Sequence[Task], settings: Settings, judge: JudgeSettings | None, no_judge: bool
) -> dict[str, JudgeSettings]:
    """The judge of each task that needs one, by name of the task.

    Raises:
        ValueError: A judge has no key, or its prompts are missing.
    """
    judges = {}
    for task in tasks:
        usable = task.protocols_for(task.prompt_for(task.chosen("split", settings.split), settings.prompt))
        needs = task.judged is not None and usable[0] in task.judged.protocols
        if task.judged is not None and (judge or (needs and not no_judge)):
            judges[task.name] = judge or JudgeSettings(settings.out / "judge_cache")
            judges[task.name].judge_for(task.judged)
            judges[task.name].prompts_for(task.judged)
    return judges


def _description(model: str, dtype: str) -> dict[str, Any]:
    """The model as it is described in a result: all files that it consists of, by hash.

    Weights are hashed as a whole, because a run must not resume with those that another training left under the same
    name and in the same size. That takes as long as reading them once, which makes loading them faster afterwards.
    """
    directory = Path(model).expanduser()
    config = directory / "config.json"
    weights = sorted([*directory.glob("*.safetensors"), *directory.glob("*.bin")])
    others = sorted(path for name in _PROCESSING for path in directory.glob(name) if path.is_file())
    return {
        "model": {
            "name": directory.name,
            "config_sha256": hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else None,
            "weights": list(file_hashes(weights, directory)),
            "processing": list(file_hashes(others, directory)),
            "dtype": dtype,
        },
        "versions": {"owl2": __version__, **{package: version(package) for package in _PACKAGES}},
    }
