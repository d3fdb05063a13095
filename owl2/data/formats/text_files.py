"""Files of JSON as a memory map in UTF-8, whatever their encoding, where it can be told without doubt."""

import codecs
import gzip
import mmap
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any, cast

from owl2.files import map_file
from owl2.processing.file_kinds import medium

_SAMPLE = 1 << 20  # bytes that are looked at
_LEAST_FOREIGN, _LEAST_SHARE = 4, 0.25
"""The number of bytes, and their share of those beyond ASCII, that are not UTF-8 in a file of another encoding."""

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WITHOUT_MARK = {b"{\0": "utf-16-le", b"[\0": "utf-16-le", b"\0{": "utf-16-be", b"\0[": "utf-16-be"}
_OTHERS = (
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it (unzstd)"),
    (b"\xfd7zXZ", "compressed with xz: unpack it (unxz)"),
    (b"BZh", "compressed with bzip2: unpack it (bunzip2)"),
    (b"PAR1", "a Parquet file: write its rows as JSON lines"),
    (b"\x89HDF", "an HDF5 file: write its records as JSON lines"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file: run git lfs pull"),
    (b"<!DOCTYPE", "a web page, not the file: download it again"),
    (b"<html", "a web page, not the file: download it again"),
)


def map_text(path: Path, what: str) -> mmap.mmap:
    """The file in UTF-8: itself, or a temporary copy of one that is compressed with gzip or in UTF-16 or UTF-32.

    Args:
        what: What the file is called in errors.

    Raises:
        ValueError: The file is empty, cut off, of another kind or in another encoding; the message says what to do.
    """
    if not path.stat().st_size:
        raise ValueError(f"the {what} {path} is empty (0 bytes)")
    with path.open("rb") as file:
        start = file.read(_SAMPLE)
        if start.startswith(b"\x1f\x8b"):
            try:
                return _copied(gzip.open(path))
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise ValueError(
                    f"the {what} {path} is compressed with gzip and cannot be unpacked: {error}"
                ) from error
        for signature, described in _OTHERS:
            if start.startswith(signature):
                raise ValueError(f"the {what} {path} is {described}")
        if kind := medium(start):
            raise ValueError(
                f"the {what} {path} is {kind}: name a file of JSON (a list, or one object a line) whose entries name "
                "the pictures or videos"
            )
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS if start.startswith(mark)), None)
        encoding = encoding or _WITHOUT_MARK.get(start[:2])
        if encoding is not None:
            file.seek(0)
            try:
                return _copied(codecs.EncodedFile(file, "utf-8", encoding))
            except UnicodeError as error:
                raise ValueError(f"the {what} {path} looks like {encoding.upper()}, but is damaged: {error}") from error
    if likely := _other_encoding(start):
        raise ValueError(f"the {what} {path} is not UTF-8; {likely}")
    return map_file(path)


def _copied(source: Any) -> mmap.mmap:
    with tempfile.TemporaryFile() as copy, source:
        shutil.copyfileobj(cast(IO[bytes], source), copy, 1 << 20)
        copy.flush()
        if not os.fstat(copy.fileno()).st_size:
            raise EOFError("it holds nothing")
        return mmap.mmap(copy.fileno(), 0, access=mmap.ACCESS_READ)


def _other_encoding(start: bytes) -> str | None:
    """The likely encoding, if many bytes beyond ASCII are not UTF-8; a few are damage of single records."""
    if start.isascii():
        return None
    foreign = len(start) - len(start.translate(None, bytes(range(0x80, 0x100))))
    damaged = len(start) - len(start.decode("utf-8", "ignore").encode())
    if damaged < _LEAST_FOREIGN or damaged < _LEAST_SHARE * foreign:
        return None
    whole = start[: start.rfind(b"\n") + 1] if len(start) == _SAMPLE else start
    for name in ("gb18030", "big5", "shift_jis", "euc_kr"):
        try:
            text = whole.decode(name)
        except UnicodeDecodeError:
            continue
        if any("\u3040" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7a3" for character in text):
            shown = "GBK" if name == "gb18030" else name.upper()
            return f"it looks like {shown}: convert it (iconv -f {shown.replace('_', '-')} -t UTF-8)"
    return "it looks like an 8-bit encoding such as Latin-1: convert it (iconv -f ISO-8859-1 -t UTF-8)"
