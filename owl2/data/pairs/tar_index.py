"""An index of where the pairs of tar shards begin, so that any pair can be read without those before it.

The index of a shard is that of Megatron-Energon, `SHARD.tar.idx`: little-endian uint64, the offset of the first header
of each pair, and finally of the end. A folder prepared by `energon prepare` needs nothing more. Otherwise
`index_shards` writes the same files and a list of them, into a folder of their own since data sets are often read-only;
a remote shard is fetched once for that. Unlike `energon prepare` it accepts shards that are cut off in the middle or
hold no pair, and keys that come twice.
"""

import json
import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np

from owl2.files import read_json_object, write_whole

from .storage import Folder, LocalFolder, open_folder

logger = logging.getLogger(__name__)

OWN_INDEX = ".owl2-index"
_LIST = "shards.json"
_ENERGON_LIST = ".nv-meta/.info.json"
_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # WebDataset's: up to the first dot of the file's name
_NOT_DATA = re.compile(r"__[^/]*__($|/)")


class Shard(NamedTuple):
    """A shard in an index; `problem` says why its end is missing."""

    name: str
    pairs: int
    size: int | None = None
    problem: str | None = None


class ShardIndex(NamedTuple):
    """Shards of a folder, and the folder that holds their `.tar.idx` files."""

    shards: list[Shard]
    folder: Folder


def key_and_suffix(name: str) -> tuple[str, str] | None:
    """The key of a member's name and what follows its dot; nothing for members that hold no data."""
    match = None if _NOT_DATA.match(name) else _KEY.fullmatch(name)
    return (match[1], match[2]) if match else None


def find_index(folder: Folder, index: str | os.PathLike | None) -> ShardIndex:
    """Finds the index of a folder: in `index`, beside the shards, or Energon's.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    own = _index_folder(folder, index)
    if own is not None and (own / _LIST).is_file():
        return ShardIndex(_read_list(own / _LIST), LocalFolder(str(own)))
    try:
        with folder.open(_ENERGON_LIST) as file:
            counts = json.loads(file.read())["shard_counts"]
    except FileNotFoundError:
        hint = "" if own is not None else " --index DIR"
        raise ValueError(f"{folder.location} has no index yet: run owl2 data index {folder.location}{hint}") from None
    return ShardIndex([Shard(name, count) for name, count in counts.items()], folder)


def offsets_of(index: ShardIndex, shard: Shard) -> np.ndarray:
    """Offsets of the pairs of a shard and of the end: int64 [pairs + 1].

    Raises:
        ValueError: The file is not that of the shard.
    """
    name = f"{shard.name}.idx"
    with index.folder.open(name) as file:
        octets = file.read()
    if len(octets) != 8 * (shard.pairs + 1):
        raise ValueError(
            f"the index {index.folder.location}/{name} has {len(octets)} bytes, but {shard.pairs} pairs need "
            f"{8 * (shard.pairs + 1)}: index the shards again"
        )
    return np.frombuffer(octets, dtype="<u8").astype(np.int64)


def index_shards(
    location: str | os.PathLike, index: str | os.PathLike | None = None, num_workers: int = 1
) -> Iterator[Shard]:
    """Index all shards of a folder; those that are unchanged since the last time are not read again.

    Args:
        location: A path or address, as for `open_folder`.
        index: Local folder for the index; `.owl2-index` beside the shards by default, required for a remote folder.
        num_workers: Number of processes.

    Yields:
        Each shard, in the order of names. The index is complete once all of them were taken.

    Raises:
        ValueError: There are no shards, or no place for the index.
    """
    folder = open_folder(location)
    target = _index_folder(folder, index)
    if target is None:
        raise ValueError(f"{folder.location} is remote: give a local folder for its index")
    names = folder.tar_names()
    if not names:
        raise ValueError(f"{folder.location} holds no .tar files{_what_there_is(folder)}")
    known = _known_shards(target / _LIST)
    target.mkdir(parents=True, exist_ok=True)
    shards = []
    jobs = [(folder, name, target, known.get(name)) for name in names]
    for shard in map(_index_shard, jobs) if num_workers == 1 else _in_processes(jobs, num_workers):
        shards.append(shard)
        yield shard
    write_whole(target / _LIST, json.dumps({"shards": [shard._asdict() for shard in shards]}, indent=0))


def _in_processes(jobs: list[tuple[Folder, str, Path, Shard | None]], num_workers: int) -> Iterator[Shard]:
    with ProcessPoolExecutor(num_workers) as pool:
        yield from pool.map(_index_shard, jobs, chunksize=4)


def _what_there_is(folder: Folder) -> str:
    """The endings of the files of a local folder, with their counts, as the end of a sentence."""
    if not isinstance(folder, LocalFolder):
        return ""
    names = [path.name for path in Path(folder.location).rglob("*") if path.is_file()]
    endings = Counter(name[name.find(".") :] if "." in name else "no ending" for name in names)
    found = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5))
    packed = any(ending.endswith(("tar.gz", "tgz", "tar.zst", "tar.bz2")) for ending in endings)
    hint = ": unpack them to .tar, in which any pair can be read at once" if packed else ""
    return f"; it holds {found or 'no file'}{hint}"


def scan(file: IO[bytes]) -> tuple[list[int], str | None]:
    """Offsets of the pairs of a tar file and of the end, as Energon counts them, and what is wrong with the file.

    A pair begins with each regular file of another key than the one before. The last pair of a file that is cut off is
    left out, since it may lack its end.
    """
    offsets: list[int] = []
    last_key, problem = None, None
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else all headers are kept
                named = key_and_suffix(member.name) if member.isreg() else None
                if named is not None and named[0] != last_key:
                    offsets.append(member.offset)
                    last_key = named[0]
            end = tar.offset
        file.seek(end)
        rest = file.read(tarfile.BLOCKSIZE)
        if rest.strip(b"\0"):
            raise tarfile.ReadError(f"no header at byte {end}")
        if not rest:  # between two members, so that no pair is known to be cut
            problem = "cut off, or without the zeros at the end of a tar file"
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        problem = f"cut off or damaged: {error}"
        end = offsets.pop() if offsets else 0
    return [*offsets, end], problem


def _index_shard(job: tuple[Folder, str, Path, Shard | None]) -> Shard:
    folder, name, target, known = job
    size = folder.size(name)
    file_of_index = target / f"{name}.idx"
    if known is not None and known.size == size and file_of_index.is_file():
        return known
    with folder.open(name) as file:
        offsets, problem = scan(file)
    file_of_index.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file_of_index, np.array(offsets, dtype="<u8").tobytes())
    return Shard(name, len(offsets) - 1, size, problem)


def _index_folder(folder: Folder, index: str | os.PathLike | None) -> Path | None:
    if index is not None:
        return Path(index)
    return Path(folder.location) / OWN_INDEX if isinstance(folder, LocalFolder) else None


def _known_shards(path: Path) -> dict[str, Shard]:
    """The shards that an index has so far; none if it must be made again."""
    if not path.is_file():
        return {}
    try:
        return {shard.name: shard for shard in _read_list(path)}
    except ValueError as error:
        logger.warning("%s", error)
        return {}


def _read_list(path: Path) -> list[Shard]:
    try:
        shards = [Shard(**entry) for entry in read_json_object(path, "a list of shards")["shards"]]
        for shard in shards:
            if ".." in PurePosixPath(shard.name).parts or PurePosixPath(shard.name).is_absolute():
                raise ValueError(f"the shard {shard.name!r} lies outside of its folder")
            if not isinstance(shard.pairs, int) or shard.pairs < 0:
                raise ValueError(f"the shard {shard.name!r} has {shard.pairs!r} pairs")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"the index {path} is damaged, index the shards again: {error}") from error
    return shards
