"""How long a command takes to answer: processor time beside `python -c "import typer, rich, pydantic"`.

These three are what the command line is made of. Every command runs in a process of its own, all of them in turn in
each round; the times are medians of user and system time together, which other processes disturb less than a clock.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from owl2.environment import processor_name

ROOT = Path(__file__).parents[1]
BASE = [sys.executable, "-c", "import typer, rich, pydantic"]
RECORDS = "docs/examples/instructions.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="write the result there, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "mistyped.yaml"
        recipe.write_text("base: small/pretrain\noptimizer: {lerning_rate: 1}\n")
        result = measure(commands(recipe), options.rounds)
    for name, entry in result["commands"].items():
        print(f"{name:<34}{entry['seconds']:>8.3f} s {entry['ratio']:>7.2f}")
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def commands(recipe: Path) -> dict[str, list[str]]:
    """Command lines by the name that the result gives them."""
    owl2 = [sys.executable, "-m", "owl2"]
    lines = {
        "owl2 --help": ["--help"],
        "owl2 --version": ["--version"],
        "owl2 train --help": ["train", "--help"],
        "owl2 cost --help": ["cost", "--help"],
        "owl2 recipes": ["recipes"],
        "owl2 train, a mistyped key": ["train", str(recipe)],
        "owl2 train, a mistyped recipe": ["train", "small/pretrian"],
        "owl2, a mistyped command": ["tain"],
        "owl2 evaluate --list": ["evaluate", "--list"],
        "owl2 data check, 10 records": ["data", "check", RECORDS],
        "owl2 data stats, 10 records": ["data", "stats", RECORDS],
        "owl2 score, no predictions": ["score", "docs"],
        "owl2 report, no result": ["report", "docs"],
    }
    named = {name: [*owl2, *arguments] for name, arguments in lines.items()}
    imports = {"import typer, rich, pydantic": BASE, "import owl2": [sys.executable, "-c", "import owl2"]}
    return {**imports, **named, "import torch, transformers": [sys.executable, "-c", "import torch, transformers"]}


def measure(lines: dict[str, list[str]], rounds: int) -> dict[str, object]:
    """Seconds of processor time of each command, and their ratio to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(rounds + 1):
        for name, line in lines.items():
            seconds[name].append(processor_seconds(line))
    medians = {name: median(values[1:]) for name, values in seconds.items()}  # the first round fills caches
    base = next(iter(medians.values()))
    entries = {name: {"seconds": round(value, 4), "ratio": round(value / base, 3)} for name, value in medians.items()}
    return {"machine": processor_name(), "python": platform.python_version(), "rounds": rounds, "commands": entries}


def processor_seconds(line: Sequence[str]) -> float:
    """User and system time of a command, whatever its exit code."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(line, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0  # it has been waited for
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
