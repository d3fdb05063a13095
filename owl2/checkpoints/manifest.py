"""Sizes and SHA-256 of the weights in a folder, beside them: a file that changed since is found before it is used."""

import json
import os
from pathlib import Path
from typing import Any

from owl2.files import WEIGHTS_MANIFEST, file_sha256, read_json_object, write_whole
from owl2.modeling import CheckpointError


class Manifest:
    """What is known about the files of a folder.

    Attributes:
        plan: Identifies what the folder is made from, so that only the same work continues in it.
        files: `{"bytes": int, "sha256": str}` of each file that is complete.
    """

    def __init__(self, directory: Path, plan: str = "", files: dict[str, dict[str, Any]] | None = None) -> None:
        self.directory, self.plan, self.files = directory, plan, files or {}

    @classmethod
    def read(cls, directory: Path) -> "Manifest | None":
        """Reads the manifest of a folder, if it has one.

        Raises:
            CheckpointError: It is damaged.
        """
        path = directory / WEIGHTS_MANIFEST
        if not path.is_file():
            return None
        stored = read_json_object(path, "sizes and hashes of weights", CheckpointError)
        files = stored.get("files")
        if not isinstance(files, dict) or not all(isinstance(each, dict) for each in files.values()):
            raise CheckpointError(f"{path} holds no sizes and hashes of weights: remove it if it is not wanted")
        return cls(directory, str(stored.get("plan")), files)

    def add(self, file: Path) -> None:
        """Flushes a complete file of the folder to the disk, and notes its size and hash."""
        _synchronize(file)
        self.files[file.name] = {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        self.write()

    def write(self) -> None:
        text = json.dumps({"plan": self.plan, "files": self.files}, indent=1)
        write_whole(self.directory / WEIGHTS_MANIFEST, text + "\n")

    def problem(self, name: str) -> str | None:
        """What is wrong with a file that the manifest lists."""
        file, noted = self.directory / name, self.files[name]
        if not file.is_file():
            return f"{file} is missing"
        if file.stat().st_size != noted.get("bytes"):
            return f"{file} has {file.stat().st_size} bytes instead of {noted.get('bytes')}"
        if file_sha256(file) != noted.get("sha256"):
            return f"{file} has changed since it was written: its SHA-256 is another"
        return None


def check_file(file: Path) -> None:
    """Compares a file of weights with its entry in the manifest of its folder, if there is one.

    Raises:
        CheckpointError: It has changed.
    """
    manifest = Manifest.read(file.parent)
    problem = manifest.problem(file.name) if manifest is not None and file.name in manifest.files else None
    if problem is not None:
        raise CheckpointError(f"{problem}; if that is meant, remove {file.parent / WEIGHTS_MANIFEST}")


def _synchronize(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
