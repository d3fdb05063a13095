"""Files of records as people write them: over lines, inside an object, compressed, in other encodings."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from owl2.data.formats import RecordFile
from owl2.data.pairs import open_pairs


def record(question: str = "Hé?", answer: str = "色") -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


RECORDS = [record(), record('a {"b": [1]} c', "d"), record("x\ny", "}{")]
LINES = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in RECORDS)


def answers(path: Path) -> list[str]:
    return [each.messages[1]["content"][0]["text"] for each in RecordFile(path)]


@pytest.mark.parametrize(
    "contents",
    [
        "\n".join(json.dumps(each, indent=2) for each in RECORDS),
        ",\n".join(json.dumps(each, indent=2, ensure_ascii=False) for each in RECORDS),
        json.dumps({"data": RECORDS}, indent=1),
        json.dumps({"version": 1, "train": RECORDS}),
        json.dumps({"train": RECORDS, "about": "x"}, indent=2) + "\n",
        json.dumps({str(index): each for index, each in enumerate(RECORDS)}, indent=1),
        json.dumps({str(index): each for index, each in enumerate(RECORDS)}),
        LINES.replace("\n", "\r"),
        LINES.replace("\n", "\r\n"),
        "\ufeff" + LINES,
    ],
)
def test_records_are_found_however_the_file_is_laid_out(tmp_path: Path, contents: str) -> None:
    (tmp_path / "f.json").write_bytes(contents.encode())
    assert answers(tmp_path / "f.json") == ["色", "d", "}{"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_other_encodings_of_unicode_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "f.jsonl").write_bytes(LINES.encode(encoding))
    assert answers(tmp_path / "f.jsonl") == ["色", "d", "}{"]


def test_a_file_compressed_with_gzip_is_read(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    assert answers(tmp_path / "f.jsonl.gz") == ["色", "d", "}{"]
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress(LINES.encode())[:-20])
    with pytest.raises(ValueError, match="gzip and cannot be unpacked"):
        RecordFile(tmp_path / "f.jsonl.gz")


def test_a_single_record_over_lines_begins_in_its_line(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(
        "\n\n" + json.dumps(RECORDS[0], indent=1) + "\n\n" + json.dumps(RECORDS[1], indent=1)
    )
    found = RecordFile(tmp_path / "f.json")
    assert [found.line(0), found.line(1)] == [3, 3 + json.dumps(RECORDS[0], indent=1).count("\n") + 2]


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (json.dumps([record("颜色?", "红色")], ensure_ascii=False).encode("gbk"), "GBK.*iconv"),
        (json.dumps(record("Café à la crème", "déjà vu"), ensure_ascii=False).encode("latin-1"), "8-bit"),
        (b"PK\x03\x04rest", "zip archive: unpack"),
        (b"PAR1rest", "Parquet"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (json.dumps({"train": RECORDS, "test": RECORDS}).encode(), "one object with the keys .'train', 'test'."),
        (json.dumps({"info": {"a": 1}, "0": RECORDS[0]}, indent=1).encode(), "not clear which of them"),
        (gzip.compress(b"", mtime=0), "gzip and cannot be unpacked"),
    ],
)
def test_what_is_in_doubt_is_said_once_and_in_words(tmp_path: Path, contents: bytes, words: str) -> None:
    (tmp_path / "f.json").write_bytes(contents)
    with pytest.raises(ValueError, match=words):
        RecordFile(tmp_path / "f.json")


@pytest.mark.parametrize("suffix", ["png", "jpeg", "gif", "bmp", "tiff", "webp"])
def test_a_picture_in_place_of_a_file_of_records_is_called_one(tmp_path: Path, suffix: str) -> None:
    noise = Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3))
    noise.save(tmp_path / f"a.{suffix}")
    with pytest.raises(ValueError, match=f"file of records .*a.{suffix} is a picture: name a file of JSON"):
        RecordFile(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    ("contents", "kind"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(40), "a picture"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "a video"),
        (b"\x1aE\xdf\xa3" + bytes(range(256)), "a video"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(range(256)), "audio"),
    ],
)
def test_a_video_or_audio_in_place_of_a_file_of_pairs_is_called_so(tmp_path: Path, contents: bytes, kind: str) -> None:
    (tmp_path / "f.jsonl").write_bytes(contents)
    with pytest.raises(ValueError, match=f"file of pairs .*f.jsonl is {kind}: name a file of JSON"):
        open_pairs("p", tmp_path / "f.jsonl")


def test_a_single_damaged_record_stays_a_problem_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_bytes(LINES.encode() * 4 + b'{"conversations": "\xff\xfe\xfd\xfc"}\n')
    found = RecordFile(tmp_path / "f.jsonl")
    assert [bool(found.examine(index)[1]) for index in range(len(found))] == [False] * 12 + [True]
    (tmp_path / "g.jsonl").write_text('{"conversations": [\n' + LINES)
    assert len(RecordFile(tmp_path / "g.jsonl")) == 4


def test_files_of_pairs_are_read_alike(tmp_path: Path) -> None:
    lines = json.dumps({"image": "data:image/png;base64,AAAA", "caption": "é"}, ensure_ascii=False) + "\n"
    for name, octets in (("a.jsonl", lines.encode("utf-16")), ("b.jsonl", gzip.compress(lines.encode()))):
        (tmp_path / name).write_bytes(octets)
        assert open_pairs("p", tmp_path / name).read(0, 0).caption == "é"


def test_a_file_url_is_its_path_below_the_root_alone(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(b"x")
    records = [
        {**record("<image>?"), "image": source}
        for source in (f"file://{tmp_path}/a%20b.png", "file://./a b.png", "file:///etc/passwd", "file://%2e%2e/x")
    ]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    found = RecordFile(tmp_path / "f.jsonl")
    assert found[0].images == found[1].images == (str(tmp_path / "a b.png"),)
    assert [found.examine(index)[1][0].kind for index in (2, 3)] == ["path or address refused"] * 2
