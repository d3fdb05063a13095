"""Pairs in JSON lines, parquet and COCO's annotations."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owl2.data.pairs import CocoCaptions, PairCheck, PairLines, PairParquet, PairSource, open_pairs
from owl2.data.skipped import Fault, InvalidSample


def faults(source: PairSource) -> list[str]:
    """A caption or a fault for each pair."""
    found = []
    for group, size in enumerate(source.groups):
        for index in range(size):
            try:
                found.append(source.read(group, index).caption)
            except InvalidSample as error:
                found.append(error.fault)
    return found


@pytest.fixture
def images(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"{number}.jpg").write_bytes(make_jpeg(number))
    return folder


def test_json_lines_give_captions_with_paths_beside_the_file(images: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        '{"image": "images/1.jpg", "caption": " a  circle ", "id": 7}\n\n{"image": "images/2.jpg", "caption": "b"}\n'
    )
    source = PairLines("own", file)
    assert source.read(0, 0) == ("7", str(images / "1.jpg"), "a circle", "own")
    assert source.read(0, 1)[:3] == ("3", str(images / "2.jpg"), "b")
    assert faults(pickle.loads(pickle.dumps(source))) == ["a circle", "b"]


def test_every_kind_of_broken_line_is_one_broken_pair(images: Path, tmp_path: Path) -> None:
    lines = [
        b'{"image": "images/1.jpg", "caption": "good"}',
        b'{"image": "images/none.jpg", "caption": "a"}',
        b'{"image": "../outside.jpg", "caption": "a"}',
        b'{"image": "/etc/hostname", "caption": "a"}',
        b'{"image": "http://localhost/1.jpg", "caption": "a"}',
        b'{"image": "images/link.jpg", "caption": "a"}',
        b'{"image": "images/1.jpg", "caption": " \\u200b\\n "}',
        b'{"image": "images/1.jpg", "caption": null}',
        b'{"image": "images/1.jpg", "caption": 3}',
        b'{"image": "images/1.jpg", "caption": "half \\ud83d"}',
        b'{"image": "images/1.jpg", "caption": "\xff"}',
        b'{"image": "images/1\\u0000.jpg", "caption": "a"}',
        b'{"image": "images/\\ud83d.jpg", "caption": "a"}',
        b'{"caption": "a"}',
        b'{"image": "images/1.jpg", "caption": "cut',
        b"[1]",
        b"[" * 100_000,
    ]
    (images / "link.jpg").symlink_to("/etc/hostname")
    (tmp_path / "outside.jpg").write_bytes(b"x")
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(b"\n".join(lines))
    refused, invalid, unreadable = Fault.REFUSED, Fault.INVALID_CAPTION, Fault.UNREADABLE
    assert faults(PairLines("own", file)) == [
        *("good", Fault.MISSING_IMAGE, refused, refused, refused, refused),
        *(Fault.EMPTY_CAPTION, Fault.MISSING_CAPTION, invalid, invalid, invalid),
        *(Fault.MISSING_IMAGE, Fault.MISSING_IMAGE, Fault.MISSING_IMAGE, unreadable, unreadable, unreadable),
    ]


def test_parquet_holds_images_as_bytes_paths_or_structs(images: Path, tmp_path: Path, make_jpeg: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    columns = {
        "bytes": [make_jpeg(1), make_jpeg(2), b"", None],
        "path": ["images/1.jpg", "images/2.jpg", "../1.jpg", None],
        "struct": [
            {"bytes": make_jpeg(1), "path": "x"},
            {"bytes": None, "path": "images/2.jpg"},
            {"bytes": None, "path": None},
            None,
        ],
    }
    for name, values in columns.items():
        table = pa.table({"image": pa.array(values), "caption": pa.array(["one", "two", "three", "four"])})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=3)
        source = PairParquet("own", tmp_path / f"{name}.parquet")
        assert list(source.groups) == [3, 1]
        found = faults(pickle.loads(pickle.dumps(source)))
        assert found[:2] == ["one", "two"]
        assert found[2] in (Fault.MISSING_IMAGE, Fault.REFUSED) and found[3] == Fault.MISSING_IMAGE
        assert not list(PairCheck(source, most=4))[2:], "both images open"


def test_img2datasets_parquet_is_read_by_its_columns(tmp_path: Path, make_jpeg: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    for number in range(3):
        table = pa.table({"jpg": [make_jpeg(number)], "caption": [f"picture {number}"], "key": ["0"]})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    source = open_pairs("own", tmp_path, image_field="jpg")
    assert faults(source) == ["picture 0", "picture 1", "picture 2"]
    with pytest.raises(ValueError, match="no column 'image'; it has jpg, caption, key"):
        open_pairs("own", tmp_path)
    with pytest.raises(ValueError, match="'jpg' is of binary, not text"):
        PairParquet("own", tmp_path, image_field="jpg", caption_field="jpg")


def test_parquet_captions_that_are_not_utf8_are_broken_pairs(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    raw = pa.array([b"good", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"image": pa.array([b"x", b"x"]), "caption": raw}), tmp_path / "a.parquet")
    assert faults(PairParquet("own", tmp_path / "a.parquet")) == ["good", Fault.INVALID_CAPTION]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"])
def test_a_damaged_parquet_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "bad.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="bad.parquet is not a parquet file"):
        PairParquet("own", tmp_path / "bad.parquet")


def test_a_row_group_that_is_damaged_costs_its_pairs_only(tmp_path: Path, make_jpeg: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a.parquet"
    table = pa.table({"image": [make_jpeg(number, 256, 256) for number in range(4)], "caption": list("abcd")})
    pq.write_table(table, file, row_group_size=2, compression="zstd", use_dictionary=False)
    start = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    octets = bytearray(file.read_bytes())
    octets[start : start + 60] = b"\xff" * 60
    file.write_bytes(octets)
    assert faults(PairParquet("own", file)) == ["a", "b", Fault.UNREADABLE, Fault.UNREADABLE]


def coco(tmp_path: Path, **changes: Any) -> Path:
    contents: dict[str, Any] = {
        "info": {},
        "images": [{"id": 9, "file_name": "1.jpg"}, {"id": 5, "file_name": "2.jpg"}],
        "annotations": [
            {"id": 100, "image_id": 5, "caption": "A b\n"},
            {"id": 101, "image_id": 9, "caption": "C."},
            {"id": 102, "image_id": 5, "caption": "D \u00e9."},
        ],
    }
    file = tmp_path / "captions_train2014.json"
    file.write_text(json.dumps({**contents, **changes}))
    return file


def test_every_official_coco_caption_is_a_pair_with_its_image(images: Path, tmp_path: Path) -> None:
    source = CocoCaptions("coco", coco(tmp_path), images)
    assert [tuple(source.read(0, index)[:3]) for index in range(3)] == [
        ("100", str(images / "2.jpg"), "A b"),
        ("101", str(images / "1.jpg"), "C."),
        ("102", str(images / "2.jpg"), "D \u00e9."),
    ]


def test_coco_annotations_that_do_not_fit_are_refused_by_number(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="record 1.*image 4 is not among"):
        CocoCaptions("coco", coco(tmp_path, annotations=[{"id": 1, "image_id": 4, "caption": "x"}]), images)
    with pytest.raises(ValueError, match="not a file under the image root"):
        CocoCaptions(
            "coco", coco(tmp_path, images=[{"id": 5, "file_name": "../2.jpg"}, {"id": 9, "file_name": "a"}]), images
        )


def test_a_path_leads_to_its_source(images: Path, tmp_path: Path, shards: Callable[..., Path]) -> None:
    from owl2.data.pairs import TarShards, index_shards

    folder = shards(1)
    (folder / "00000.parquet").write_bytes(b"img2dataset's metadata")
    list(index_shards(folder))
    assert isinstance(open_pairs("a", folder), TarShards)
    assert isinstance(open_pairs("a", coco(tmp_path), root=images), CocoCaptions)
    assert isinstance(open_pairs("a", coco(images)), CocoCaptions), "images lie beside the file by default"
    with pytest.raises(ValueError, match="there is no format 'csv' of pairs; there are webdataset, jsonl"):
        open_pairs("a", folder, format="csv")
    with pytest.raises(ValueError, match="webdataset has no image_field, but image_field='img'"):
        open_pairs("a", folder, image_field="img")
    with pytest.raises(ValueError, match="neither a folder nor a file"):
        open_pairs("a", tmp_path / "pairs.csv")
    with pytest.raises(ValueError, match="does not exist"):
        open_pairs("a", tmp_path / "none.jsonl")
