"""Long runs of a tiny model: memory stays flat, and files and open handles stay few.

* `training`: 10,000 steps with a checkpoint every 10, of which 3 are kept: 1,000 are written,
* `evaluation`: 10,000 samples, predicted and scored.

What grows shows in the ratio of the memory at the end to that after the first fifth. The exit code is 1 where a bound
is broken. `--steps` and `--samples` give shorter forms. Run `python benchmarks/endurance.py --help`.
"""

import argparse
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from common import add_output, machine_facts, settings_of, show
from rich.console import Console

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers import GOLDENS, tiny_config, tiny_model  # noqa: E402
from pope_data import SUBSETS, question, write_pope  # noqa: E402
from training.tiny_recipes import recipe_of, write_training  # noqa: E402

from owl2.evaluation.inference.ranks import Ranks  # noqa: E402
from owl2.evaluation.plan import Settings, plan_task  # noqa: E402
from owl2.evaluation.results.scoring import score_directory  # noqa: E402
from owl2.evaluation.runner import predict  # noqa: E402
from owl2.evaluation.tasks import task_named  # noqa: E402
from owl2.processing import Owl2ImageProcessor, Owl2Processor  # noqa: E402
from owl2.training.monitoring.process_memory import resident_bytes  # noqa: E402
from owl2.training.run import train  # noqa: E402

KEPT = 3
FILES_OF_A_RUN = 60
"""Most files of a run at any time: its own, and those of the checkpoints that are kept and of the one being written."""

GROWTH, SLACK = 1.05, 24 << 20
"""The memory at the end may be so much of that after a fifth, or so many bytes more: allocators keep a little."""


class Moment(NamedTuple):
    memory: int
    handles: int
    files: int


def now(folder: Path) -> Moment:
    handles = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return Moment(resident_bytes(), handles, sum(len(files) for _, _, files in os.walk(folder)))


def training(steps: int, every: int, folder: Path) -> tuple[list[Moment], dict[str, Any]]:
    """A run with many checkpoints."""
    write_training(folder)
    out, moments = folder / "run", []
    overrides = (f"schedule.steps={steps}", f"checkpoint.every={every}", f"checkpoint.keep={KEPT}")
    small = (
        "batch.global_batch_size=2",
        "batch.micro_batch_size=2",
        "logging.every=10",
        "checkpoint.asynchronous=true",
    )
    recipe = recipe_of(folder, "instruct", out, *overrides, *small)
    finished = train(recipe, Console(file=io.StringIO()), lambda step: moments.append(now(out)))
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert finished and len(kept) == KEPT and kept[-1] == f"step-{steps:08d}", kept
    lines = len((out / "metrics.jsonl").read_text().splitlines())
    return moments, {"steps": steps, "checkpoints_written": steps // every, "lines_of_metrics": lines}


def evaluation(samples: int, folder: Path) -> tuple[list[Moment], dict[str, Any]]:
    """POPE with so many questions."""
    from transformers import AutoTokenizer

    write_pope(folder, {each: map(question, range(first, samples, 3)) for first, each in enumerate(SUBSETS)})
    model = tiny_model(tiny_config(vocab_size=320, eos_token_id=2))
    processor = Owl2Processor(
        Owl2ImageProcessor(size={"height": 16, "width": 16}),
        AutoTokenizer.from_pretrained(GOLDENS / "tokenizer"),
        num_image_tokens=model.config.tokens_per_image,
    )
    plan = plan_task(task_named("pope"), Settings(folder, folder / "out"), {"model": {}, "versions": {}})
    moments: list[Moment] = []
    predict(plan, model, processor, Ranks(), 16, lambda done, of: moments.append(now(folder / "out")))
    result = score_directory(plan.directory)
    assert result["samples"] == samples, result["samples"]
    size = sum(file.stat().st_size for file in plan.directory.iterdir())
    return moments, {"samples": samples, "bytes_of_results": size}


def bounded(moments: list[Moment], files: int) -> dict[str, Any]:
    """What was seen, and which bounds it breaks."""
    fifth = max(1, len(moments) // 5)
    early = statistics.median(moment.memory for moment in moments[fifth : 2 * fifth])
    late = statistics.median(moment.memory for moment in moments[-fifth:])
    handles = max(moment.handles for moment in moments[-fifth:]) - max(moment.handles for moment in moments[:fifth])
    most = max(moment.files for moment in moments)
    broken = []
    if late > max(early * GROWTH, early + SLACK):
        broken.append(f"memory grew from {early / 2**20:.0f} to {late / 2**20:.0f} MiB")
    if handles > 2:
        broken.append(f"{handles} more open files at the end")
    if most > files:
        broken.append(f"{most} files, over {files}")
    return {
        "memory_after_a_fifth": early,
        "memory_at_the_end": late,
        "growth": late / early,
        "most_files": most,
        "more_open_handles": handles,
        "broken": broken,
    }


def measure(run: Callable[[Path], tuple[list[Moment], dict[str, Any]]], files: int) -> dict[str, Any]:
    start = time.process_time()
    with TemporaryDirectory() as folder:
        moments, facts = run(Path(folder))
    return {**facts, **bounded(moments, files), "processor_seconds": time.process_time() - start}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000, help="of training")
    parser.add_argument("--every", type=int, default=10, help="steps between checkpoints")
    parser.add_argument("--samples", type=int, default=10_000, help="of evaluation")
    add_output(parser)
    return parser.parse_args(argv)


def main() -> int:
    arguments = parse()
    report = {
        "environment": machine_facts(on_gpu=False),
        "settings": settings_of(arguments),
        "training": measure(lambda folder: training(arguments.steps, arguments.every, folder), FILES_OF_A_RUN),
        "evaluation": measure(lambda folder: evaluation(arguments.samples, folder), 4),
    }
    show(report, arguments)
    return int(any(report[part]["broken"] for part in ("training", "evaluation")))


if __name__ == "__main__":
    sys.exit(main())
