"""A small file system to fill, and a benchmark to answer."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pope_data import write_pope
from training.tiny_recipes import write_training


class SmallDisk:
    """A file system of its own, in memory."""

    def __init__(self, path: Path) -> None:
        self.path, self._filler = path, path / "filler"

    def fill(self, leaving: int = 0) -> None:
        """Takes the room that is left but for some bytes."""
        room = shutil.disk_usage(self.path).free - leaving
        self._filler.write_bytes(bytes(max(0, room)))

    def make_room(self) -> None:
        self._filler.unlink()

    def forbid_writing(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", self.path], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """32 MiB; skipped where nothing can be mounted."""
    path = tmp_path / "small disk"
    path.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", path], stderr=subprocess.DEVNULL
    )
    if not mounted or mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield SmallDisk(path)
    subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and recipes of a tiny training."""
    return write_training(tmp_path_factory.mktemp("data"))


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    return write_pope(tmp_path / "benchmarks")
