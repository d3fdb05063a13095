"""Tar shards of img2dataset and WebDataset, read in place (CC3M, CC12M, LAION, COYO, DataComp).

A pair is the members that share a key: an image (`.jpg`, `.png`, `.webp`, ...), and its caption, either the whole of
`.txt` or the field "caption" of `.json`. img2dataset writes both, and they are the same; `.txt` is taken.

Nothing is ever extracted: names of members are only names. Still a pair whose key is absolute or climbs with `..` is
refused, since keys become ids and ids may become file names.
"""

import io
import os
import re
import tarfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from owl2.data.skipped import Fault, InvalidSample
from owl2.files import parse_json

from .image_folder import IMAGE_SUFFIXES
from .source import LARGEST_PAIR, StoredPair, caption_text
from .storage import open_folder
from .tar_index import find_index, key_and_suffix, offsets_of

_NAMED = re.compile(r"[\w-]+[.]\w+")  # `KEY.image.jpg`, in which WebDataset takes all after KEY for the suffix
_OPEN_INDICES = 256  # 80 KB each


class TarShards:
    """Pairs of the tar files of a folder.

    Args:
        name: Name of the source.
        location: A folder, or an address `s3://bucket/folder` (extra `pretrain`).
        index: Folder of the index, if it is not beside the shards; see `tar_index.index_shards`.
        caption_field: Field of `.json` that holds the caption, such as that of a data set captioned anew; by default
            `.txt`, or the field "caption" where there is none.

    Raises:
        ValueError: The folder is missing, or has no index.
    """

    def __init__(
        self,
        name: str,
        location: str | os.PathLike,
        index: str | os.PathLike | None = None,
        caption_field: str | None = None,
    ) -> None:
        self.name, self.caption_field = name, caption_field
        self._arguments = (name, location, index, caption_field)
        self.folder = open_folder(location)
        self.index = find_index(self.folder, index)
        self.groups: Sequence[int] = [shard.pairs for shard in self.index.shards]
        self._offsets = lru_cache(_OPEN_INDICES)(self._read_offsets)

    def __reduce__(self) -> tuple[Any, ...]:
        return TarShards, self._arguments

    @property
    def problems(self) -> list[str]:
        """Shards that are cut off, with what is wrong."""
        return [f"{shard.name}: {shard.problem}" for shard in self.index.shards if shard.problem]

    def read(self, group: int, index: int) -> StoredPair:
        shard = self.index.shards[group].name
        where = f"{self.folder.location}/{shard}, pair {index}"
        start, end = self._offsets(group)[index : index + 2].tolist()
        if not 0 < end - start <= LARGEST_PAIR:
            raise InvalidSample(Fault.OVERSIZED_IMAGE, f"{where}: {end - start} bytes, more than {LARGEST_PAIR}")
        try:
            octets = self.folder.read(shard, start, end - start)
        except OSError as error:
            raise InvalidSample(Fault.UNREADABLE, f"{where}: {error}") from error
        if len(octets) < end - start:
            raise InvalidSample(
                Fault.UNREADABLE, f"{where}: the shard ends {end - start - len(octets)} bytes too early"
            )
        key, members = members_of(octets, where)
        caption = caption_text(self._caption(members, where), where)
        images = [members[suffix] for suffix in IMAGE_SUFFIXES if suffix in members]
        images = images or [
            content for name, content in members.items() if _NAMED.fullmatch(name) and name.endswith(IMAGE_SUFFIXES)
        ]
        if not images:
            raise InvalidSample(Fault.MISSING_IMAGE, f"{where}: no image among {sorted(members)}")
        return StoredPair(f"{shard}/{key}", images[0], caption, self.name)

    def _read_offsets(self, group: int) -> np.ndarray:
        return offsets_of(self.index, self.index.shards[group])

    def _caption(self, members: dict[str, bytes], where: str) -> Any:
        if self.caption_field is None and "txt" in members:
            return members["txt"]
        texts = [
            name for name in members if name in ("caption", "text") or _NAMED.fullmatch(name) and name.endswith(".txt")
        ]
        if self.caption_field is None and len(texts) == 1:
            return members[texts[0]]
        if "json" not in members:
            raise InvalidSample(Fault.MISSING_CAPTION, f"{where}: no .txt and no .json among {sorted(members)}")
        try:
            fields = parse_json(members["json"])
        except ValueError as error:
            raise InvalidSample(Fault.INVALID_CAPTION, f"{where}: .json: {error}") from error
        name = self.caption_field or "caption"
        if not isinstance(fields, dict) or name not in fields:
            shown = sorted(fields) if isinstance(fields, dict) else fields
            text = f"{where}: .json has no field {name!r}, it has {shown!r:.200}: name it with caption_field"
            raise InvalidSample(Fault.MISSING_CAPTION, text)
        return fields[name]


def members_of(octets: bytes, where: str) -> tuple[str, dict[str, bytes]]:
    """The key of a pair and its members by suffix, in lower case.

    Args:
        octets: Headers and contents of the members of one pair, cut out of a tar file.
        where: The place with which errors begin.

    Raises:
        InvalidSample: A header is damaged, a suffix comes twice, a member is a link or no file, or the key is refused.
    """
    members: dict[str, bytes] = {}
    pair_key = ""
    try:
        with tarfile.open(fileobj=io.BytesIO(octets), mode="r:") as tar:
            for member in tar:
                named = key_and_suffix(member.name)
                if named is None or (pair_key and named[0] != pair_key):
                    continue  # no data; or a link of the next pair, which begins with its first file
                pair_key = named[0]
                suffix = named[1].lower()
                if not member.isreg():
                    raise InvalidSample(
                        Fault.REFUSED, f"{where}: {member.name!r:.200} is not a file but a link or device"
                    )
                if suffix in members:
                    raise InvalidSample(Fault.DUPLICATE_KEY, f"{where}: {member.name!r:.200} comes twice")
                if member.size > len(octets):  # a sparse file may claim any number of zeros
                    raise InvalidSample(
                        Fault.OVERSIZED_IMAGE, f"{where}: {member.name!r:.200} claims {member.size} bytes"
                    )
                content = tar.extractfile(member)
                assert content is not None, "a regular file has contents"
                members[suffix] = content.read()
    except InvalidSample:
        raise
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise InvalidSample(Fault.UNREADABLE, f"{where}: {error}") from error
    if PurePosixPath(pair_key).is_absolute() or ".." in pair_key.replace("\\", "/").split("/"):
        raise InvalidSample(Fault.REFUSED, f"{where}: the key {pair_key!r:.200} is absolute or climbs with '..'")
    return pair_key, members
