"""Pairs in parquet: a column of captions, and one of images as bytes, paths, or the struct that HF `datasets` writes.

A row is read with its row group, and the last groups are kept, so small row groups (a thousand images or less) are
best. Needs pyarrow, which comes with the extra `train`.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from owl2.data.skipped import Fault, InvalidSample

from .record_files import image_root, named_image
from .source import LARGEST_PAIR, StoredPair, caption_text

_KEPT = 1 << 29  # bytes of row groups that a process keeps


class PairParquet:
    """Pairs of a parquet file, or of all those of a folder.

    Args:
        name: Name of the source.
        path: A file, or a folder of `.parquet` files.
        root: Folder of the images that are given as paths; the folder of the file by default.
        image_field, caption_field: Columns; img2dataset writes "jpg" and "caption", HF `datasets` mostly "image".

    Raises:
        ValueError: There is no such file, it is damaged, or a column is missing or of another type.
        ImportError: pyarrow is not installed.
    """

    def __init__(
        self,
        name: str,
        path: str | os.PathLike,
        root: str | os.PathLike | None = None,
        image_field: str = "image",
        caption_field: str = "caption",
    ) -> None:
        self.name, self.columns = name, (image_field, caption_field)
        self._arguments = (name, path, root, image_field, caption_field)
        self.files = _parquet_files(Path(path))
        self.root = image_root(self.files[0], root)
        places, sizes = [], []
        for number, file in enumerate(self.files):
            for group, rows in enumerate(_row_groups(file, self.columns)):
                places.append((number, group))
                sizes.append(rows)
        self._places = places
        self.groups: Sequence[int] = sizes
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return PairParquet, self._arguments

    def read(self, group: int, index: int) -> StoredPair:
        number, row_group = self._places[group]
        where = f"{self.files[number]}, row group {row_group}, row {index}"
        images, captions = self._row_group(group, where)
        try:
            caption, image = captions[index].as_py(), images[index].as_py()
        except UnicodeDecodeError as error:
            raise InvalidSample(Fault.INVALID_CAPTION, f"{where}: not UTF-8: {error}") from error
        caption = caption_text(caption, where)
        identity = f"{self.files[number].name}/{row_group}/{index}"
        return StoredPair(identity, self._image(image, where), caption, self.name)

    def _image(self, image: Any, where: str) -> bytes | str:
        if isinstance(image, dict):
            image = image["path"] if image["bytes"] is None else image["bytes"]
        if not isinstance(image, bytes):
            return named_image(self.root, image, where)
        if not image:
            raise InvalidSample(Fault.MISSING_IMAGE, f"{where}: the image has 0 bytes")
        if len(image) > LARGEST_PAIR:
            raise InvalidSample(Fault.OVERSIZED_IMAGE, f"{where}: {len(image)} bytes, more than {LARGEST_PAIR}")
        return image

    def _row_group(self, group: int, where: str) -> tuple[Any, Any]:
        """The columns of a row group."""
        if group not in self._kept:
            pyarrow, parquet = _arrow()
            number, row_group = self._places[group]
            try:
                with parquet.ParquetFile(self.files[number]) as file:
                    table = file.read_row_group(row_group, columns=list(self.columns))
            except (pyarrow.ArrowException, OSError) as error:
                raise InvalidSample(Fault.UNREADABLE, f"{where}: {error}") from error
            self._kept[group] = table
            while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(group)
        image, caption = (self._kept[group].column(name) for name in self.columns)
        return image, caption


def _parquet_files(path: Path) -> list[Path]:
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ValueError(f"{path} is neither a parquet file nor a folder of .parquet files")
    return files


def _row_groups(path: Path, columns: tuple[str, str]) -> list[int]:
    """The number of rows in each group of a file whose columns can be read."""
    pyarrow, parquet = _arrow()
    try:
        with parquet.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a parquet file that can be read: {error}") from error
    for column in columns:
        if column not in schema.names:
            raise ValueError(f"{path} has no column {column!r}; it has {', '.join(schema.names)}")
    image, caption = (schema.field(column).type for column in columns)
    types = pyarrow.types
    texts = (types.is_string, types.is_large_string)
    is_struct = types.is_struct(image) and {"bytes", "path"} <= {field.name for field in image}
    if not is_struct and not any(test(image) for test in (types.is_binary, types.is_large_binary, *texts)):
        raise ValueError(f"{path}: the column {columns[0]!r} is of {image}, not bytes, a path or a struct of both")
    if not any(test(caption) for test in texts):
        raise ValueError(f"{path}: the column {columns[1]!r} is of {caption}, not text")
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("reading parquet needs pyarrow, of the extra 'train': pip install 'owl2[train]'") from error
    return pyarrow, parquet
