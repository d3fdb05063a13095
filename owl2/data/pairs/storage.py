"""Folders of shards, local or remote. Remote ones are read through Megatron-Energon's storage (extra `pretrain`)."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

_OPEN_FILES = 64  # a window of the order touches a handful of shards of a source
_OBJECT_STORES = ("s3", "gs")


class Folder(Protocol):
    """Where shards lie; names are relative, with `/`."""

    location: str

    def tar_names(self) -> list[str]:
        """All `.tar` files at any depth, sorted."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a file."""
        ...

    def open(self, name: str) -> Any:
        """Context manager of a binary file that can seek."""
        ...

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Part of a file, less where the file ends.

        Raises:
            OSError: it cannot be read.
        """
        ...


def open_folder(location: str | os.PathLike) -> Folder:
    """The folder of that path, or of an address `s3://bucket/folder`, `gs://...` or `msc://profile/folder`.

    Raises:
        ValueError: it is not a folder, or an address of another kind.
        ImportError: remote, and the extra `pretrain` is not installed.
    """
    name = os.fspath(location)
    if "://" in name:
        return RemoteFolder(name)
    if not os.path.isdir(name):
        raise ValueError(f"{name!r} is not a folder of shards")
    return LocalFolder(name)


class LocalFolder:
    """A folder of the file system. Its open files are read at offsets, so that forked processes may share them."""

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
    """A folder of an object store. Its client is made in each process when it is first needed."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self._folder = _energon_path(self.location)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFolder, (self.location,)

    def tar_names(self) -> list[str]:
        return sorted(path.relative_to(self._folder) for path in self._folder.walk() if path.name.endswith(".tar"))

    def size(self, name: str) -> int:
        return (self._folder / name).size()

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        with (self._folder / name).open("rb") as file:
            yield file

    def read(self, name: str, offset: int, size: int) -> bytes:
        with self.open(name) as file:
            file.seek(offset)
            return file.read(size)


def _energon_path(location: str) -> Any:
    protocol, _, rest = location.partition("://")
    bucket, _, folder = rest.partition("/")
    if protocol in _OBJECT_STORES:  # the storage layer's name for a bucket that has no profile in its settings
        location = f"msc://_{protocol}-{bucket}/{folder}"
    elif protocol != "msc":
        raise ValueError(f"shards at {location!r} cannot be read: use a folder, or an address s3://, gs:// or msc://")
    try:
        from megatron.energon.epathlib import EPath
    except ImportError as error:
        raise ImportError(f"reading {location} needs the extra 'pretrain': pip install 'owl2[pretrain]'") from error
    return EPath(location)
