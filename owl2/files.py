"""Files read and written whole: mapped into memory, hashed, read as a JSON object, replaced at once."""

import hashlib
import json
import mmap
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

_BLOCK = 1 << 16  # bytes

WEIGHTS_MANIFEST = "weights.sha256.json"
"""Sizes and SHA-256 of the weights in a model folder that was written shard by shard."""


def map_file(path: Path) -> mmap.mmap:
    """The bytes of a file that is not empty, in a memory map, which forked processes share."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_directory(name: str | Path) -> Path:
    """A local directory, in which a model is looked for; commands ask before they wait for torch.

    Raises:
        ValueError: It does not exist, or is a file.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        found = "is not a directory" if path.exists() else "does not exist"
        raise ValueError(
            f"the model directory {name} {found}. owl2 fetches nothing: download a published model first, "
            "for example with: hf download NAME --local-dir DIRECTORY"
        )
    return path


def check_output_directory(directory: Path, option: str = "--out") -> None:
    """Refuses a directory of results that could not be made; commands ask before they load anything.

    Args:
        option: What names the directory, for the message.

    Raises:
        ValueError: It or a directory above it is a file, or the first of them that exists may not be written to.
    """
    path = directory.absolute()
    nearest = next(each for each in (path, *path.parents) if each.exists())
    if not nearest.is_dir():
        what = "is a file, not a directory" if nearest == path else f"cannot be made: {nearest} is a file"
        raise ValueError(f"{option} {directory} {what}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{option} {directory}: {nearest} may not be written to")


def parse_json(contents: str | bytes) -> Any:
    """A value of JSON.

    Raises:
        ValueError: It is not JSON; its lists or objects are nested too deeply; or one object has a key twice, of
            which Python's parser would keep the last.
    """
    try:
        return json.loads(contents, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("lists or objects lie too deep in each other") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"an object has the key {twice!r:.80} more than once")
    return found


def read_json_object(path: Path, what: str, error_type: type[ValueError] = ValueError) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: The file.
        what: What it should hold, for the message of the error.
        error_type: Type of the error.

    Raises:
        ValueError: The file is not JSON, or holds something else; as `error_type`.
    """
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise error_type(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise error_type(f"{path} holds a {type(value).__name__}, not {what}")
    return value


def cut_after_last_line(path: Path) -> None:
    """Removes what follows the last end of a line in a file: a line whose writing was interrupted."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        file.truncate(end)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Names a file or folder in errors of writing it, where the system leaves it out: a full disk has no name.

    Raises:
        OSError: The same error, with the path.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        if error.errno is None:  # numpy's
            raise OSError(f"{path} cannot be written: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_whole(path: Path, contents: bytes | str | Iterable[str]) -> None:
    """Writes or replaces a file so that readers see all of the new contents or none of them.

    They are written beside the file, flushed to disk and renamed. Threads and processes may write the same file at the
    same time: the last one wins.

    Args:
        path: The file, in a directory that exists.
        contents: Bytes, or text, perhaps in pieces, for UTF-8.

    Raises:
        OSError: There is no room, or no right to write; the file stays as it was.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        with errors_name(path), partial.open("xb") as file:
            for piece in [contents] if isinstance(contents, bytes | str) else contents:
                file.write(piece if isinstance(piece, bytes) else piece.encode())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
