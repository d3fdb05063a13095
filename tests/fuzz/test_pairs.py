"""Pairs of stage 1: shards with changed bytes are indexed and read, every broken pair reported with its place."""

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fuzz.conftest import Fuzz
from fuzz.inputs import changed_bytes, changed_json
from PIL import Image

from owl2.data.pairs import PairCheck, index_shards, open_pairs, tar_index

PAIRS = [{"image": "a.png", "caption": f"caption {number}", "id": number} for number in range(3)]


def shard() -> bytes:
    picture, buffer = io.BytesIO(), io.BytesIO()
    Image.linear_gradient("L").resize((8, 8)).save(picture, "PNG")
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(3):
            members = {"png": picture.getvalue(), "txt": b"a caption", "json": json.dumps(PAIRS[number]).encode()}
            for suffix, contents in members.items():
                member = tarfile.TarInfo(f"{number:05d}.{suffix}")
                member.size = len(contents)
                tar.addfile(member, io.BytesIO(contents))
    return buffer.getvalue()


def read_all(path: Path) -> None:
    check = PairCheck(open_pairs(str(path), path))
    broken = list(check)
    assert check.read + len(broken) == check.most
    assert all(str(path) in str(error) for error in broken)


def test_a_tar_shard(fuzz: Fuzz, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_index, "ProcessPoolExecutor", ThreadPoolExecutor)  # seen by the audit
    folder = inside / "shards"
    folder.mkdir()

    def check(contents: bytes) -> None:
        (folder / "00000.tar").write_bytes(contents)
        for file in (folder / tar_index.OWN_INDEX).glob("*"):
            file.unlink()
        assert len(list(index_shards(folder))) == 1
        read_all(folder)

    fuzz(changed_bytes([shard()]), check, 100, "shards")


def test_an_index_of_shards(fuzz: Fuzz, inside: Path) -> None:
    folder = inside / "shards"
    folder.mkdir()
    (folder / "00000.tar").write_bytes(shard())
    list(index_shards(folder))
    names = ("shards.json", "00000.tar.idx")
    originals = {name: (folder / tar_index.OWN_INDEX / name).read_bytes() for name in names}

    def check(contents: bytes) -> None:
        for name, original in originals.items():
            is_changed = contents.startswith(b"{") == (name == "shards.json")
            (folder / tar_index.OWN_INDEX / name).write_bytes(contents if is_changed else original)
        read_all(folder)

    strategy = changed_json(json.loads(originals["shards.json"])) | changed_bytes([originals["00000.tar.idx"]])
    fuzz(strategy, check, 60, "shards")


def test_a_list_of_pairs(fuzz: Fuzz, inside: Path) -> None:
    def check(contents: bytes) -> None:
        (inside / "p.jsonl").write_bytes(contents)
        read_all(inside / "p.jsonl")

    fuzz(changed_json(PAIRS, lines=True) | changed_json(PAIRS), check, 80, "p.jsonl")
