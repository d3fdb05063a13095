"""A stage of a grid on several ranks of this machine, under torchrun; on one it is trained in this process."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from owl2.files import write_whole
from owl2.training.recipe.schema import Recipe
from owl2.training.recipe.yaml_file import dump_recipe
from owl2.training.run import train
from owl2.training.run_directory import RunDirectory


def train_on_ranks(recipe: Recipe, ranks: int, console: Console) -> bool:
    """Trains a recipe, or resumes it, as `owl2 train` does.

    Args:
        recipe: The recipe, which names its run directory.
        ranks: Processes that share the training; one GPU each, where there are any.
        console: Where the training prints; several ranks print into its file.

    Returns:
        Whether the run is finished; `False` if it was asked to stop (SIGTERM) and saved its state.

    Raises:
        ValueError: The recipe cannot be trained.
    """
    if ranks == 1:
        return train(recipe, console)
    assert recipe.out is not None, "a stage has a run directory"
    directory = Path(recipe.out)
    file = directory.with_name(f".{directory.name}.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, dump_recipe(recipe))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    process = subprocess.Popen(
        [sys.executable, *launcher, "-m", "owl2", "train", str(file)],
        stdout=console.file,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is the grid's, which then sends SIGTERM
    )
    stopped: list[int] = []

    def forward(number: int, frame: Any) -> None:
        stopped.append(number)
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    finished = RunDirectory(directory).is_finished
    if code and not finished and not stopped:
        raise ValueError(f"{directory.name} failed on {ranks} ranks (exit code {code}): what they printed says why")
    return finished
