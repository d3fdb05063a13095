"""Two processes never work in one run directory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from training.tiny_recipes import run_recipe, write_training

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


def test_a_run_is_refused_where_another_is_active_and_not_after_that_was_killed(tmp_path: Path) -> None:
    write_training(tmp_path)
    run = tmp_path / "run"
    with held_by_another_process(run) as pid:
        with pytest.raises(ValueError, match=rf"another run is active in {run} \(process {pid} on "):
            run_recipe(tmp_path, "pretrain", run, "schedule.steps=1")
        assert [path.name for path in run.iterdir()] == [".lock"]
    finished, _ = run_recipe(tmp_path, "pretrain", run, "schedule.steps=1")
    assert finished


FORKING = """
import os, sys, time
from pathlib import Path
from owl2.directory_lock import only_process_in

with only_process_in(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        time.sleep(60)
    print(child, flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_worker_that_outlives_its_run_does_not_hold_the_directory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKING, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            process.wait(timeout=60)
            with only_process_in(tmp_path / "run"):
                os.kill(child, 0)  # it is still alive
        finally:
            os.kill(child, 9)


def test_a_directory_is_free_again_after_its_run(tmp_path: Path) -> None:
    with only_process_in(tmp_path / "run"):
        pass
    with held_by_another_process(tmp_path / "run"):
        pass
