"""Files read whole: through a memory map, which forked processes share, into a hash, or as settings."""

import hashlib
import json
import mmap
from pathlib import Path
from typing import Any


def map_file(path: Path) -> mmap.mmap:
    """The bytes of a file that is not empty, for reading."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_settings(path: Path, of_what: str, error_type: type[ValueError] = ValueError) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: the file is not JSON, or holds something else; as `error_type`.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise error_type(f"{path} is not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise error_type(f"{path} holds a {type(settings).__name__}, not {of_what}.")
    return settings
