"""What the benchmarks share: their clock, and how a report is printed and written."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from owl2.environment import processor_name


def add_clock(parser: argparse.ArgumentParser, default: str = "wall") -> None:
    parser.add_argument(
        "--clock",
        choices=["wall", "processor"],
        default=default,
        help="processor: only this process's own time, for a machine that others use too",
    )


def check_clock(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuses processor time where it is not the time that passes: on a GPU, and with several threads."""
    import torch

    if arguments.clock == "processor" and (arguments.device != "cpu" or torch.get_num_threads() > 1):
        parser.error("--clock processor is for the CPU with one thread (OMP_NUM_THREADS=1)")


def clock_of(arguments: argparse.Namespace) -> Callable[[], float]:
    return time.process_time if arguments.clock == "processor" else time.perf_counter


def add_output(parser: argparse.ArgumentParser, has_table: bool = False) -> None:
    if has_table:
        parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--out", type=Path, help="also write the result to this JSON file")


def machine_facts(on_gpu: bool) -> dict[str, Any]:
    """Where and with what a result was measured."""
    import torch
    import transformers

    return {
        "device": torch.cuda.get_device_name() if on_gpu else processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that decide what is measured."""
    return {name: value for name, value in vars(arguments).items() if name not in ("json", "out", "clock")}


def show(report: dict[str, Any], arguments: argparse.Namespace, table: str | None = None) -> None:
    """Prints the table of a report, or JSON if there is none or `--json` was given, and writes JSON to `--out`."""
    text = json.dumps(report, indent=2)
    print(text if table is None or getattr(arguments, "json", False) else table)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")
