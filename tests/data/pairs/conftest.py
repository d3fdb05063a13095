"""Small shards and images, made as img2dataset makes them."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def jpeg(seed: int, width: int = 32, height: int = 24) -> bytes:
    """A JPEG of a smooth picture that differs with the seed."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """One regular file."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def img2dataset_shard(path: Path, number: int, pairs: int) -> None:
    """`00000.tar`: KEY.jpg, KEY.json, KEY.txt a pair, KEY five digits of the shard and four of the pair."""
    with tarfile.open(path, "w") as tar:
        for index in range(pairs):
            key = f"{number:05d}{index:04d}"
            caption = f"picture {key}"
            fields: dict[str, Any] = {
                "caption": caption,
                "url": f"http://localhost/{key}",
                "key": key,
                "status": "success",
            }
            add(tar, f"{key}.jpg", jpeg(number * 1000 + index))
            add(tar, f"{key}.json", json.dumps(fields).encode())
            add(tar, f"{key}.txt", caption.encode())


@pytest.fixture
def shards(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of shards with so many pairs each."""

    def make(*pairs: int, name: str = "shards") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number, count in enumerate(pairs):
            img2dataset_shard(folder / f"{number:05d}.tar", number, count)
        return folder

    return make


@pytest.fixture
def make_jpeg() -> Callable[..., bytes]:
    return jpeg


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with one shard of the given members: (name, contents), or a `TarInfo` alone."""

    def make(*members: tuple[str, bytes] | tarfile.TarInfo, name: str = "hostile") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        with tarfile.open(folder / "00000.tar", "w") as tar:
            for member in members:
                if isinstance(member, tarfile.TarInfo):
                    tar.addfile(member)
                else:
                    add(tar, *member)
        return folder

    return make
