"""Keeps what was read from sources, so that the next run opens any record at once without reading the others.

An entry is a directory named after a source and a hash of all that decides its contents: the contents of the source's
files, the arguments of its reader, and the code of the readers. Entries are not changed. An annotation file is kept
as conversations:

    records.jsonl   a line a record: id, messages, images
    offsets.npy     int64 [records + 1]: where the lines begin, and the end
    sizes.npy       int32 [records, 4]: text bytes, images, videos, answers
    about.json      what it was made from, and what the source leaves out

A file of records stays where it is; its entry holds `spans.npy` (int64 [3, all records]), `numbers.npy` (int64
[records]: the valid ones), `sizes.npy`, and in `about.json` what is wrong with the others.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

import owl2.data.formats
import owl2.data.sources
from owl2.data.formats import RecordFile
from owl2.data.formats.record_offsets import RecordOffsets
from owl2.data.problems import Rejected
from owl2.data.records import Conversation
from owl2.files import errors_name, file_sha256, read_json_object, write_whole

from .cached_records import size_of, valid_records
from .record_size import RecordSize

logger = logging.getLogger(__name__)

_HASHES = "hashes.json"

EXAMINED_AGAIN = 100
"""The number of left-out records that are examined again whenever an entry is opened, spread evenly."""


def conversations_entry(
    root: Path, name: str, arguments: dict[str, Any], read: Callable[[Rejected], Iterable[Conversation]]
) -> Path:
    """The entry of a source read from annotation files, made if missing.

    Args:
        root: Directory of the cache.
        name: Beginning of the entry's name.
        arguments: All that the records depend on; files (not folders) by their contents.
        read: Reads the source, and counts the records that it leaves out.

    Raises:
        ValueError: A broken record, by file and number; the source has no records.
    """

    def build(entry: Path) -> dict[str, Any]:
        offsets, sizes, rejected = array("q", [0]), array("i"), Rejected()
        with (entry / "records.jsonl").open("wb") as file:
            for conversation in read(rejected):
                line = json.dumps([conversation.id, conversation.messages, conversation.images], ensure_ascii=False)
                offsets.append(offsets[-1] + file.write(line.encode() + b"\n"))
                sizes.extend(size_of(conversation))
        np.save(entry / "offsets.npy", np.frombuffer(offsets, np.int64))
        _save_sizes(entry, sizes, name)
        return rejected.to_json()

    return _entry(root, name, arguments, build)


def record_file_entry(root: Path, name: str, file: Path, images: Path | None) -> Path:
    """The entry of a file of records; see `conversations_entry`.

    It is made again when records that were left out have become valid, such as those whose images were missing.

    Raises:
        ValueError: The file is missing; none of its records is valid.
    """

    def build(entry: Path) -> dict[str, Any]:
        records = RecordFile(file, images)
        numbers, sizes, rejected = array("q"), array("i"), Rejected()
        for number, conversation in valid_records(records, rejected):
            numbers.append(number)
            sizes.extend(size_of(conversation))
        if not numbers:
            raise ValueError(f"none of the {len(records)} records of {name} is valid; first {rejected.named[0]}")
        np.save(entry / "spans.npy", np.stack(records.spans))
        np.save(entry / "numbers.npy", np.frombuffer(numbers, np.int64))
        _save_sizes(entry, sizes, name)
        return rejected.to_json()

    def is_current(entry: Path) -> bool:
        spans, valid = np.load(entry / "spans.npy", mmap_mode="r"), np.load(entry / "numbers.npy", mmap_mode="r")
        if len(valid) == spans.shape[1]:
            return True
        is_left_out = np.ones(spans.shape[1], bool)
        is_left_out[valid] = False
        rejected = np.flatnonzero(is_left_out)
        some = rejected[:: -(-len(rejected) // EXAMINED_AGAIN)].tolist()
        records = RecordFile(file, images, spans=RecordOffsets(*spans))
        return all(records.examine(number)[0] is None for number in some)

    return _entry(root, name, {"format": "records", "file": file, "images": images}, build, is_current)


def _save_sizes(entry: Path, sizes: "array[int]", name: str) -> None:
    if not sizes:
        raise ValueError(f"the source {name} has no records")
    np.save(entry / "sizes.npy", np.frombuffer(sizes, np.int32).reshape(-1, len(RecordSize._fields)))


def _entry(
    root: Path,
    name: str,
    arguments: dict[str, Any],
    build: Callable[[Path], dict[str, Any]],
    is_current: Callable[[Path], bool] | None = None,
) -> Path:
    """The directory that `build` fills; it appears whole or not at all, and one process builds it while others wait."""
    root.mkdir(parents=True, exist_ok=True)
    made_from = {key: _identity(value, root) for key, value in arguments.items()}
    key = hashlib.sha256(json.dumps([made_from, _code(), RecordSize._fields], sort_keys=True).encode()).hexdigest()[:20]
    entry = root / f"{name}-{key}"
    if entry.is_dir() and is_current is None:
        return entry
    if entry.is_dir() and _is_read_only(root):  # as it is, if it is right: no process can change it
        if is_current is None or is_current(entry):
            return entry
        raise ValueError(f"the cache {root} cannot be written, and what it holds of {name} is out of date")
    with errors_name(root), FileLock(root / f".{name}-{key}.lock"):
        if entry.is_dir():
            if is_current is None or is_current(entry):
                return entry
            shutil.rmtree(entry)
        logger.info("reading %s into %s", name, entry)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{name}-unfinished-", dir=root))
        try:
            about = build(unfinished)
            (unfinished / "about.json").write_text(json.dumps({"source": name, "made_from": made_from, **about}))
            unfinished.chmod(0o755)  # mkdtemp's are its owner's alone
            unfinished.rename(entry)
        except BaseException:
            shutil.rmtree(unfinished)
            raise
    return entry


def _is_read_only(root: Path) -> bool:
    return not os.access(root, os.W_OK)


def _identity(value: Any, root: Path) -> Any:
    """A file by its contents and its path, everything else as it is."""
    if not isinstance(value, Path):
        return value
    if not value.is_file():
        return str(value)
    return [str(value), _contents_hash(value, root / _HASHES)]


def _contents_hash(path: Path, memory: Path) -> str:
    """SHA-256 of a file, remembered as long as its size and time of change stay the same."""
    status = path.stat()
    seen = [status.st_size, status.st_mtime_ns]
    known = _remembered(memory).get(str(path))
    if known is not None and known[:2] == seen:
        return known[2]
    digest = file_sha256(path)
    if not _is_read_only(memory.parent):
        with FileLock(memory.with_suffix(".lock")):
            write_whole(memory, json.dumps({**_remembered(memory), str(path): [*seen, digest]}))
    return digest


def _remembered(memory: Path) -> dict[str, Any]:
    return read_json_object(memory, "the hashes of files") if memory.exists() else {}


@cache
def _code() -> str:
    """SHA-256 of the code that reads sources: what another version of the code read is read again."""
    digest = hashlib.sha256()
    for package in (owl2.data.formats, owl2.data.sources):
        for file in sorted(Path(package.__path__[0]).glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
