"""All cells of a grid, on several processes of this machine and on other machines that share the directory.

Every process walks over the cells in their order and takes the first that nobody works on. A file lock says that a cell
is being worked on, its file of metrics that it is done.
"""

import multiprocessing
import os
import queue
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from owl2.quiet import call_in_new_process, is_quiet
from owl2.stop_signal import StopRequested, stop_signal

from .cells import Busy, metrics_file, read_metrics, run_cell
from .grid import Cell
from .measurement import Measurement

_WAIT_SECONDS = 5.0


def run_cells(
    cells: Sequence[Cell],
    measure: Mapping[str, Measurement],
    work: Path,
    folder: Path,
    jobs: int,
    console: Console,
    ranks: int = 1,
) -> bool:
    """Runs every cell that has no metrics yet.

    Args:
        work: The folder where models are trained.
        folder: The folder of the metrics.
        jobs: Processes; each has its share of the cores and, where there are GPUs, one of them in turn.
        ranks: GPUs of this machine that share the training of a stage.

    Returns:
        Whether all cells are done; `False` if the grid was asked to stop (Ctrl-C, SIGTERM) and saved its state.

    Raises:
        ValueError: A file of metrics belongs to another grid, or a cell failed.
    """
    pending = [cell for cell in cells if read_metrics(folder, cell) is None]
    done = len(cells) - len(pending)
    if done:
        console.print(f"{done} of {len(cells)} cells are done: {folder}", highlight=False)
    if not pending:
        return True
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    told: Any = context.Queue()
    threads = max(1, torch.get_num_threads() // jobs)
    arguments = (cells, dict(measure), work, folder, threads, ranks, told)
    target = (is_quiet(), __name__, run_worker.__name__)
    workers = [
        context.Process(target=call_in_new_process, args=(*target, *arguments, gpu))
        for gpu in gpu_of_each_job(min(jobs, len(pending)))
    ]
    for worker in workers:
        worker.start()
    failures: list[str] = []
    try:
        with stop_signal() as asked, _progress(console) as progress:
            bar = progress.add_task("cells", total=len(cells), completed=done, left="")
            started = time.monotonic()
            while not (failures or asked()) and any(worker.is_alive() for worker in workers):
                failures += _listen(told, console, 1.0)
                finished = sum(metrics_file(folder, cell).is_file() for cell in cells)
                progress.update(bar, completed=finished, left=_left(finished - done, len(cells) - finished, started))
    finally:  # the cells in work are saved
        _stop(workers)
        failures += _listen(told, console, 0.2)
    if failures:
        raise ValueError(failures[0])
    return all(metrics_file(folder, cell).is_file() for cell in cells)


def gpu_of_each_job(jobs: int) -> list[str | None]:
    """What each process sees as `CUDA_VISIBLE_DEVICES`, one GPU in turn; `None` leaves all of them to a single one."""
    if jobs == 1:
        return [None]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(number) for number in range(torch.cuda.device_count())] if visible is None else visible.split(",")
    return [gpus[job % len(gpus)] if gpus else None for job in range(jobs)]


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
    )


def _left(finished: int, pending: int, started: float) -> str:
    if not finished:
        return "time left: after the first cell"
    minutes = (time.monotonic() - started) / finished * pending / 60
    return f"about {minutes / 60:.1f} h left" if minutes > 90 else f"about {minutes:.0f} min left"


def _listen(told: Any, console: Console, seconds: float) -> list[str]:
    """Prints what the workers tell until they have been silent for so long, and returns why cells failed."""
    failures = []
    try:
        while True:
            kind, text = told.get(timeout=seconds)
            if kind == "failed":
                failures.append(text)
            else:
                console.print(text, highlight=False, soft_wrap=True)
    except queue.Empty:
        return failures


def _stop(workers: Sequence[Any]) -> None:
    """Asks the workers to save and end, and waits for them."""
    for worker in workers:
        if worker.is_alive():
            os.kill(worker.pid, signal.SIGTERM)
    for worker in workers:
        worker.join()


def run_worker(
    cells: Sequence[Cell],
    measure: Mapping[str, Measurement],
    work: Path,
    folder: Path,
    threads: int,
    ranks: int,
    told: Any,
    gpu: str | None,
) -> None:
    """Runs cells in one process until none is left."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and sends SIGTERM
    work.mkdir(parents=True, exist_ok=True)
    with (work / f"log-{os.getpid()}.txt").open("w", encoding="utf-8") as log:
        console = Console(file=log, width=120)
        if gpu is not None:
            console.print(f"CUDA_VISIBLE_DEVICES={gpu}", highlight=False)
        while pending := [cell for cell in cells if not metrics_file(folder, cell).is_file()]:
            if not _take_one(pending, measure, work, folder, ranks, console, told):
                return


def _take_one(
    pending: Sequence[Cell],
    measure: Mapping[str, Measurement],
    work: Path,
    folder: Path,
    ranks: int,
    console: Console,
    told: Any,
) -> bool:
    """Runs the first free cell, or waits if there is none. Returns whether to continue."""
    for cell in pending:
        started = time.monotonic()
        try:
            run_cell(cell, measure, work, folder, console, ranks)
        except Busy:
            continue
        except StopRequested:
            told.put(("stopped", f"stopped in {cell.condition}, seed {cell.seed}; the same command resumes"))
            return False
        except Exception as error:  # said by the parent, which ends the grid
            traceback.print_exc(file=console.file)
            told.put(("failed", f"{cell.condition}, seed {cell.seed}: {error}"))
            return False
        told.put(("done", f"{cell.condition}, seed {cell.seed}: done in {time.monotonic() - started:.0f} s"))
        return True
    time.sleep(_WAIT_SECONDS)
    return True
