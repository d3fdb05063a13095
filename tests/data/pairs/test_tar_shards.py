"""Shards of img2dataset, read in place."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from owl2.data.pairs import StoredPair, TarShards, index_shards
from owl2.data.skipped import Fault, InvalidSample


def pairs_of(source: TarShards) -> list[StoredPair]:
    return [source.read(group, index) for group, size in enumerate(source.groups) for index in range(size)]


def test_every_pair_of_img2datasets_shards_is_read(
    shards: Callable[..., Path], make_jpeg: Callable[..., bytes]
) -> None:
    folder = shards(3, 2)
    counted = list(index_shards(folder))
    assert [(shard.name, shard.pairs) for shard in counted] == [("00000.tar", 3), ("00001.tar", 2)]
    pairs = pairs_of(TarShards("cc3m", folder))
    keys = ["000000000", "000000001", "000000002", "000010000", "000010001"]
    assert [pair.caption for pair in pairs] == [f"picture {key}" for key in keys]
    assert [pair.id for pair in pairs] == [f"{key[:5]}.tar/{key}" for key in keys]
    assert [pair.image for pair in pairs] == [make_jpeg(seed) for seed in (0, 1, 2, 1000, 1001)]
    assert {pair.source for pair in pairs} == {"cc3m"}


def test_the_caption_is_the_text_or_else_the_json(make_tar: Callable[..., Path]) -> None:
    fields = json.dumps({"caption": "of json", "blip": "made anew"}).encode()
    folder = make_tar(
        ("a.jpg", b"x"),
        ("a.json", fields),
        ("a.txt", b" of \n text "),
        ("b.PNG", b"y"),
        ("b.json", fields),
        ("c.webp", b"z"),
    )
    list(index_shards(folder))
    source = TarShards("s", folder)
    assert [source.read(0, index).caption for index in (0, 1)] == ["of text", "of json"]
    assert [TarShards("s", folder, caption_field="blip").read(0, index).caption for index in (0, 1)] == [
        "made anew"
    ] * 2
    with pytest.raises(InvalidSample) as broken:
        source.read(0, 2)
    assert broken.value.fault == Fault.MISSING_CAPTION


def test_folders_in_tars_and_folders_of_tars_are_part_of_ids(
    shards: Callable[..., Path], make_tar: Callable[..., Path]
) -> None:
    outer = make_tar(("part/a.jpg", b"x"), ("part/a.txt", b"one"), ("other/a.jpg", b"x"), ("other/a.txt", b"two"))
    shutil.move(shards(1), outer / "sub")
    list(index_shards(outer))
    assert [pair.id for pair in pairs_of(TarShards("s", outer))] == [
        "00000.tar/part/a",
        "00000.tar/other/a",
        "sub/00000.tar/000000000",
    ]


def test_a_folder_without_index_says_how_to_make_one(shards: Callable[..., Path]) -> None:
    folder = shards(1)
    with pytest.raises(ValueError, match=f"owl2 data index {folder}"):
        TarShards("s", folder)


def test_only_new_and_changed_shards_are_indexed_again(
    shards: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, index = shards(2, 2), tmp_path / "index"
    list(index_shards(folder, index))
    assert sorted(path.name for path in folder.iterdir()) == ["00000.tar", "00001.tar"], "data sets may be read-only"
    untouched = (index / "00000.tar.idx").stat().st_mtime_ns
    shutil.copy(folder / "00000.tar", folder / "00002.tar")
    shutil.move(shards(5, name="longer") / "00000.tar", folder / "00001.tar")
    assert [shard.pairs for shard in index_shards(folder, index, num_workers=2)] == [2, 5, 2]
    assert (index / "00000.tar.idx").stat().st_mtime_ns == untouched
    assert len(pairs_of(TarShards("s", folder, index))) == 9


def test_a_source_can_be_sent_to_another_process_after_it_was_read(shards: Callable[..., Path]) -> None:
    folder = shards(2)
    list(index_shards(folder))
    source = TarShards("s", folder)
    first = pairs_of(source)
    assert pairs_of(pickle.loads(pickle.dumps(source))) == first


def test_more_shards_than_open_files_are_read(shards: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("owl2.data.pairs.storage._OPEN_FILES", 2)
    folder = shards(*[1] * 5)
    list(index_shards(folder))
    source = TarShards("s", folder)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    captions = [source.read(group, 0).caption for group in (0, 1, 2, 3, 4, 0, 4)]
    assert captions == [f"picture 0000{group}0000" for group in (0, 1, 2, 3, 4, 0, 4)]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_the_index_is_energons_and_a_folder_it_prepared_needs_no_other(make_tar: Callable[..., Path]) -> None:
    sizes = {"a.jpg": 10, "a.txt": 600, "folder/b.c.jpg": 5, "folder/b.txt": 1, "__skip__/c.jpg": 3, "d.png": 1024}
    folder = make_tar(*[(name, b"x" * size) for name, size in sizes.items()])
    list(index_shards(folder))
    expected = np.array([0, 2560, 5632, 7168], "<u8").tobytes()  # as written by megatron-energon 7.4.1
    assert (folder / ".owl2-index" / "00000.tar.idx").read_bytes() == expected
    shutil.rmtree(folder / ".owl2-index")
    with pytest.raises(ValueError, match="no index yet"):
        TarShards("s", folder)
    (folder / "00000.tar.idx").write_bytes(expected)
    (folder / ".nv-meta").mkdir()
    counts = {"energon_version": "7.4.1", "shard_counts": {"00000.tar": 3}}
    (folder / ".nv-meta" / ".info.json").write_text(json.dumps(counts))
    source = TarShards("s", folder)
    assert list(source.groups) == [3] and source.read(0, 0).caption == "x" * 600


def test_a_remote_folder_is_read_through_a_profile_of_multi_storage_client(
    shards: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("multistorageclient")
    folder = shards(2, 3)
    profile = {"storage_provider": {"type": "file", "options": {"base_path": str(tmp_path)}}}
    settings = tmp_path / "msc.json"
    settings.write_text(json.dumps({"profiles": {"bucket": profile}}))
    monkeypatch.setenv("MSC_CONFIG", str(settings))
    address, index = "msc://bucket/shards", tmp_path / "index"
    with pytest.raises(ValueError, match="--index DIR"):
        TarShards("s", address)
    assert [shard.pairs for shard in index_shards(address, index)] == [2, 3]
    list(index_shards(folder))
    assert pairs_of(TarShards("s", address, index)) == pairs_of(TarShards("s", folder))


def test_other_addresses_are_refused() -> None:
    with pytest.raises(ValueError, match="s3://"):
        TarShards("s", "ftp://host/shards")
