"""Two processes never work in one run directory."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from training.tiny_recipes import run_recipe, write_data, write_recipes

from owl2.directory_lock import only_process_in

PROGRAM = """
import sys
from pathlib import Path
from owl2.directory_lock import only_process_in

with only_process_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(directory: Path) -> Iterator[int]:
    command = [sys.executable, "-c", PROGRAM, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process.pid
        process.kill()


def test_a_run_is_refused_where_another_goes_on_and_not_after_that_was_killed(tmp_path: Path) -> None:
    write_data(tmp_path)
    write_recipes(tmp_path)
    run = tmp_path / "run"
    with held_by_another_process(run) as pid:
        with pytest.raises(ValueError, match=rf"another run goes on in {run} \(process {pid} on "):
            run_recipe(tmp_path, "pretrain", run, "schedule.steps=1")
        assert [path.name for path in run.iterdir()] == [".lock"]
    finished, _ = run_recipe(tmp_path, "pretrain", run, "schedule.steps=1")
    assert finished


def test_a_directory_is_free_again_after_its_run(tmp_path: Path) -> None:
    with only_process_in(tmp_path / "run"):
        pass
    with held_by_another_process(tmp_path / "run"):
        pass
