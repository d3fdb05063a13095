"""Folders of shards, local or remote.

Remote ones are read through Multi-Storage Client, the storage layer of Megatron-Energon, which the extra `pretrain`
brings. Energon itself fetches whole shards; here a pair is one request of its bytes.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

_OPEN_FILES = 64  # a window of the order touches a handful of shards of a source
_REMOTE = ("s3://", "gs://", "msc://")


class Folder(Protocol):
    """A folder of shards; names are relative, with `/`."""

    location: str

    def tar_names(self) -> list[str]:
        """All `.tar` files at any depth, sorted."""
        ...

    def size(self, name: str) -> int:
        """The size of a file in bytes."""
        ...

    def open(self, name: str) -> Any:
        """A context manager for a binary file that can seek."""
        ...

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Reads part of a file, and less at its end.

        Raises:
            OSError: It cannot be read.
        """
        ...


def open_folder(location: str | os.PathLike) -> Folder:
    """Opens the folder of a path, or of an address `s3://bucket/folder`, `gs://...` or `msc://profile/folder`.

    Raises:
        ValueError: It is not a folder, or an address of another kind.
        ImportError: Remote, and the extra `pretrain` is not installed.
    """
    name = os.fspath(location)
    if "://" in name:
        return RemoteFolder(name)
    if not os.path.isdir(name):
        raise ValueError(f"{name!r} is not a folder of shards")
    return LocalFolder(name)


class LocalFolder:
    """A folder of the file system. Open files are read at offsets, so that forked processes may share them."""

    def __init__(self, location: str) -> None:
        self.location = os.path.abspath(location)
        self._files: OrderedDict[str, int] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalFolder, (self.location,)

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)

    def tar_names(self) -> list[str]:
        root = Path(self.location)
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.tar") if path.is_file())

    def size(self, name: str) -> int:
        return os.stat(self._path(name)).st_size

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        with open(self._path(name), "rb") as file:
            yield file

    def read(self, name: str, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor(name), size, offset)

    def _path(self, name: str) -> str:
        return os.path.join(self.location, name)

    def _descriptor(self, name: str) -> int:
        if name not in self._files:
            self._files[name] = os.open(self._path(name), os.O_RDONLY)
            if len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(name)
        return self._files[name]


class RemoteFolder:
    """A folder of an object store, or of a profile `msc://` of the storage layer's own settings."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        if not self.location.startswith(_REMOTE):
            raise ValueError(f"shards at {location!r} cannot be read: use a folder, or an address {', '.join(_REMOTE)}")
        try:
            import multistorageclient

            self._client, self._path = multistorageclient.resolve_storage_client(self.location)
        except ImportError as error:  # itself, or the client of the object store, as boto3
            raise ImportError(
                f"reading {location} needs the extra 'pretrain' (pip install 'owl2[pretrain]'): {error}"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFolder, (self.location,)

    def tar_names(self) -> list[str]:
        root = self._path.strip("/")
        keys = (f"/{entry.key.lstrip('/')}" for entry in self._client.list_recursive(self._path))
        names = (key.partition(f"/{root}/" if root else "/")[2] for key in keys)  # keys may begin with the bucket
        return sorted(name for name in names if name.endswith(".tar"))

    def size(self, name: str) -> int:
        return self._client.info(f"{self._path}/{name}").content_length

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        with self._client.open(f"{self._path}/{name}", "rb") as file:  # this fetches the whole file
            yield file

    def read(self, name: str, offset: int, size: int) -> bytes:
        from multistorageclient.types import Range

        try:
            return self._client.read(f"{self._path}/{name}", byte_range=Range(offset, size))
        except RuntimeError as error:  # what becomes of a server that does not answer
            raise OSError(f"{self.location}/{name}: {error}") from error
