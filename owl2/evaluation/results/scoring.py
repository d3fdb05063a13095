"""Scores saved predictions under any protocol, from their file alone."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owl2 import __version__
from owl2.evaluation.judge.benchmark_items import read_prompt
from owl2.evaluation.judge.judge import Judge
from owl2.evaluation.prediction_files import (
    PREDICTIONS,
    CheckedPredictions,
    check_complete,
    predictions_hash,
    read_header,
    read_predictions,
    write_predictions,
)
from owl2.evaluation.task import JudgedScoring, Prediction, Scores, Task
from owl2.evaluation.tasks import task_named
from owl2.files import read_json_object, write_whole

SCORES = "scores.json"

_OF_HEADER = (
    "split",
    "prompt",
    "prompt_format",
    "prompt_format_expected",
    "suffix",
    "frames",
    "model",
    "data",
)  # into the result


@dataclass(frozen=True)
class JudgeSettings:
    """The judge to use; see `Judge`. Where `model` or `runs` is None, it is that of the benchmark's own program.

    Attributes:
        prompts: Directory of prompt files that take the place of ours of the same name, such as the official texts.
    """

    cache: Path
    model: str | None = None
    runs: int | None = None
    replay: bool = False
    base_url: str | None = None
    concurrency: int = 8
    prompts: Path | None = None

    def judge_for(self, judged: JudgedScoring) -> Judge:
        """The judge of a benchmark.

        Raises:
            ValueError: It has no key.
        """
        model = self.model or judged.model
        return Judge(model, self.cache, base_url=self.base_url, replay=self.replay, concurrency=self.concurrency)

    def prompts_for(self, judged: JudgedScoring) -> dict[str, str]:
        """The texts of a benchmark's prompts by name.

        Raises:
            ValueError: `prompts` is not a directory, or a file in it cannot be read.
        """
        return {name: read_prompt(name, self.prompts) for name in judged.prompts}


def task_directories(run: Path) -> list[Path]:
    """The directories of a run's tasks, or the run itself if it is one of them.

    Raises:
        ValueError: There are no predictions.
    """
    if not run.is_dir():
        raise ValueError(f"{run} is not a directory: give that of a run of owl2 evaluate, or of one of its tasks")
    found = [run] if (run / PREDICTIONS).is_file() else sorted(path.parent for path in run.glob(f"*/{PREDICTIONS}"))
    if not found:
        raise ValueError(f"{run} holds no complete predictions ({PREDICTIONS}): run owl2 evaluate, which resumes")
    return found


def with_protocol(directories: Sequence[Path], protocol: str | None) -> tuple[list[Path], dict[Path, str]]:
    """The directories whose predictions a protocol can score, and the reasons of the others; all where it is None.

    Raises:
        ValueError: It can score none of several; the message has those that can.
    """
    if protocol is None or len(directories) == 1:
        return list(directories), {}
    known = {directory: _protocols(directory) for directory in directories}
    fitting = [directory for directory, names in known.items() if protocol in names]
    if not fitting:
        named = "; ".join(f"{directory.name}: {', '.join(names)}" for directory, names in known.items())
        raise ValueError(f"no task here can be scored by the protocol {protocol!r}. {named}")
    lacking = f"does not support the protocol {protocol}"
    return fitting, {directory: lacking for directory in directories if directory not in fitting}


def _protocols(directory: Path) -> tuple[str, ...]:
    header = read_header(directory / PREDICTIONS)
    return task_named(header["task"]).protocols_for(header["prompt"])


def with_submission(directories: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The directories whose predictions an evaluation server takes, and the reasons of the others.

    Raises:
        ValueError: There are several, and it takes none of them.
    """
    if len(directories) == 1:
        return list(directories), {}
    headers = {directory: read_header(directory / PREDICTIONS) for directory in directories}
    refused = {directory: reason for directory, header in headers.items() if (reason := _not_submitted(header))}
    if len(refused) == len(directories):
        raise ValueError("no server takes any of these predictions. " + "; ".join(refused.values()))
    return [directory for directory in directories if directory not in refused], refused


def _not_submitted(header: Mapping[str, Any]) -> str | None:
    """The reason why no evaluation server takes predictions of this header; None if one does."""
    task = task_named(header["task"])
    if task.submission is None:
        return f"{task.title} has no submission to an evaluation server"
    if task.submitted_splits and header["split"] not in task.submitted_splits:
        return (
            f"{task.title}: these are predictions of a split with public answers, {header['split']}: a server takes "
            f"those of {', '.join(task.submitted_splits)}"
        )
    return None


def default_judge_cache(run: Path) -> Path:
    """The directory in which `owl2 evaluate` keeps a judge's replies: in the run, even if `run` is one of its tasks."""
    return (run.parent if (run / PREDICTIONS).is_file() else run) / "judge_cache"


def score_directory(
    directory: Path,
    protocol: str | None = None,
    allow_partial: bool = False,
    judge: JudgeSettings | None = None,
) -> dict[str, Any]:
    """Scores the predictions of a task and adds the result to its `scores.json`, next to those of other protocols.

    Results of other predictions are dropped there. Each line of the predictions gets the answer and the score of the
    default protocol, and the header names that protocol as `parser` and `scorer`.

    Args:
        protocol: Protocol to score; by default all that need no judge and no other program, and with a `judge` those
            that it scores.

    Raises:
        ValueError: Predictions are missing or there twice; a protocol is unknown or needs a judge.
    """
    header, records = read_predictions(directory / PREDICTIONS)
    task = task_named(header["task"])
    found = check_complete(header, records, allow_partial)
    judged = task.judged.protocols if task.judged else ()
    usable = task.protocols_for(header["prompt"])
    if protocol is not None and task.chosen("protocol", protocol) not in usable:
        raise ValueError(
            f"{task.title}: {protocol} cannot score the prompt {header['prompt']!r}; these can: {', '.join(usable)}"
        )
    left_out = (*task.on_request, *(judged if judge is None else ()))
    protocols = [protocol] if protocol else [name for name in usable if name not in left_out]
    results = {}
    for name in protocols:
        scores, how = _scores(task, found.records, name, judge, allow_partial)
        results[name] = {"summary": scores.summary, **how}
        if name == usable[0] and found.is_complete:
            by = {"task": task.name, "protocol": name, "owl2": __version__}
            write_predictions(directory / PREDICTIONS, {**header, "parser": by, "scorer": by}, records, scores)
    return _add_results(directory, task, header, found, results)


def write_submission(directory: Path, out: Path) -> Path:
    """Writes what the evaluation server of a task takes, and returns the file.

    Raises:
        ValueError: No server takes these predictions, or some are missing.
    """
    header, records = read_predictions(directory / PREDICTIONS)
    task = task_named(header["task"])
    if reason := _not_submitted(header):
        raise ValueError(reason)
    assert task.submission is not None
    check_complete(header, records, allow_partial=False)
    if len(records) != header["samples_of_split"]:
        raise ValueError(
            f"{task.title} has predictions for {len(records)} of {header['samples_of_split']} samples: a submission "
            "needs all"
        )
    out.mkdir(parents=True, exist_ok=True)
    try:
        return task.submission(records, out)
    except ValueError as error:
        raise ValueError(f"{task.title}: {error}") from error


def _scores(
    task: Task, records: Sequence[Prediction], protocol: str, judge: JudgeSettings | None, allow_partial: bool
) -> tuple[Scores, dict[str, Any]]:
    judged = task.judged
    if judged is None or protocol not in judged.protocols:
        return task.score(records, protocol), {}
    if judge is None:
        raise ValueError(
            f"{task.title} under {protocol} needs a judge: pass --judge (its key is read from OPENAI_API_KEY), or "
            "--judge-replay with the cache of an earlier run"
        )
    asked, prompts = judge.judge_for(judged), judge.prompts_for(judged)
    items = judged.items(records, protocol, prompts)
    runs = [asked.run(items, run) for run in range(judge.runs or judged.runs)]
    values: list[Mapping[str, Any]] = [run.values(allow_partial) for run in runs]
    how = {
        "judge": asked.model,
        "prompts": {name: _described(name, text) for name, text in prompts.items()},
        "runs": len(runs),
        "judged": len(items),
        "failures": [run.failures for run in runs],
        "failed_attempts": [run.failed_attempts for run in runs],
        "served_by": [run.served_by for run in runs],
    }
    return judged.score(records, values, protocol), {"judged_by": how}


def _described(name: str, prompt: str) -> dict[str, Any]:
    """A prompt of a judge by its hash, and whether it is in this project's own words."""
    return {"sha256": hashlib.sha256(prompt.encode()).hexdigest(), "own_words": prompt == read_prompt(name)}


def _add_results(
    directory: Path, task: Task, header: dict[str, Any], found: CheckedPredictions, results: dict[str, Any]
) -> dict[str, Any]:
    path = directory / SCORES
    result = {
        "task": task.name,
        "title": task.title,
        "primary_metric": task.primary_metric,
        "default_protocol": task.protocols_for(header["prompt"])[0],
        **{name: header.get(name) for name in _OF_HEADER},
        "samples": len(found.records),
        "samples_of_split": header["samples_of_split"],
        "samples_expected": header["samples_expected"],
        "predictions_sha256": predictions_hash(found.records),
        "duplicated": found.duplicated,
        "partial": not found.is_complete or len(found.records) != header["samples_of_split"],
        "protocols": results,
    }
    if path.is_file():
        before = read_json_object(path, "the scores of a task")
        if before.get("predictions_sha256") == result["predictions_sha256"]:
            result["protocols"] = {**before["protocols"], **results}
    write_whole(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def not_comparable(counted: Mapping[str, Any]) -> str | None:
    """The warning about a header or result whose split has another number of samples than the official one."""
    if counted["samples_expected"] in (None, counted["samples_of_split"]):
        return None
    return f"NOT COMPARABLE: the official split has {counted['samples_expected']} samples"


def value_at(summary: Mapping[str, Any], key: str) -> Any:
    """An entry of a summary; dots lead into nested ones.

    Raises:
        KeyError: There is none.
    """
    value: Any = summary
    for name in key.split("."):
        value = value[name]
    return value
