"""Pairs as people have them beside shards: folders of images, LLaVA's list, members of other names."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from owl2.data.pairs import PairCheck, index_shards, open_pairs
from owl2.data.skipped import Fault, InvalidSample


@pytest.fixture
def jpeg() -> bytes:
    octets = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(octets, "JPEG")
    return octets.getvalue()


def captions(path: Path, **settings: str) -> list[str]:
    source = open_pairs("p", path, **settings)
    return [source.read(group, index).caption for group, size in enumerate(source.groups) for index in range(size)]


def talk(*answers: str) -> list[dict[str, str]]:
    return [
        turn for each in answers for turn in ({"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": each})
    ]


def write_tar(folder: Path, members: dict[str, bytes]) -> None:
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as tar:
        for name, octets in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(octets)
            tar.addfile(header, io.BytesIO(octets))
    list(index_shards(folder))


def test_a_folder_of_images_with_their_captions_is_read(tmp_path: Path, jpeg: bytes) -> None:
    for name, caption in (("00001/b", "two"), ("00000/a", "one"), ("00001/c.d", "three")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jpg").write_bytes(jpeg)
        (tmp_path / f"{name}.txt").write_text(caption)
        (tmp_path / f"{name}.json").write_text(json.dumps({"caption": "other", "long": f"{caption}!"}))
    (tmp_path / "00000.parquet").write_bytes(b"metadata")
    assert captions(tmp_path) == ["one", "two", "three"]
    assert captions(tmp_path, caption_field="long") == ["one!", "two!", "three!"]
    (tmp_path / "00000/a.txt").unlink()
    assert captions(tmp_path)[0] == "other"
    (tmp_path / "00000/a.json").unlink()
    with pytest.raises(InvalidSample, match=r"no \.txt and no \.json beside it, only \['a.jpg'\]") as missing:
        captions(tmp_path)
    assert missing.value.fault == Fault.MISSING_CAPTION
    check = PairCheck(open_pairs("p", tmp_path))
    assert len(list(check)) == 1 and check.read == 2


@pytest.mark.parametrize("form", ["list", "lines"])
def test_the_list_that_llava_is_pretrained_on_is_read(tmp_path: Path, jpeg: bytes, form: str) -> None:
    (tmp_path / "red.jpg").write_bytes(jpeg)
    records = [{"id": str(index), "image": "red.jpg", "conversations": talk(f"red {index}")} for index in range(3)]
    path = tmp_path / ("l.json" if form == "list" else "l.jsonl")
    path.write_text(json.dumps(records) if form == "list" else "".join(json.dumps(each) + "\n" for each in records))
    assert captions(path) == ["red 0", "red 1", "red 2"]
    assert open_pairs("p", path).read(0, 1).image == str(tmp_path / "red.jpg")


def test_a_conversation_of_several_answers_is_no_caption(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text(json.dumps({"image": "a.jpg", "conversations": talk("a", "b")}))
    with pytest.raises(InvalidSample, match="2 answers is not a caption: instruction tuning"):
        captions(tmp_path / "l.jsonl")


def test_members_of_other_names_are_read_where_there_is_no_doubt(tmp_path: Path, jpeg: bytes) -> None:
    write_tar(tmp_path / "s", {"1.image.jpg": jpeg, "1.caption": b"one", "2.jpg": jpeg, "2.text.txt": b"two"})
    assert captions(tmp_path / "s") == ["one", "two"]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"1.jpg": b"", "1.cls": b"3"}, r"no \.txt and no \.json among \['cls', 'jpg'\]"),
        (
            {"1.jpg": b"", "1.json": b'{"text": "a"}'},
            r"no field 'caption', it has \['text'\]: name it with caption_field",
        ),
        ({"1.npy": b"", "1.txt": b"a"}, r"no image among \['npy', 'txt'\]"),
    ],
)
def test_what_is_missing_in_a_shard_is_said_with_what_is_there(tmp_path: Path, members: dict, words: str) -> None:
    write_tar(tmp_path / "s", members)
    with pytest.raises(InvalidSample, match=words):
        captions(tmp_path / "s")


def test_a_folder_without_shards_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "0.tar.gz").touch()
    with pytest.raises(ValueError, match=r"no \.tar files; it holds 1 \.tar\.gz: unpack them"):
        list(index_shards(tmp_path))


def test_a_check_counts_control_tokens_in_captions(tmp_path: Path, jpeg: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg)
    lines = [{"image": "a.jpg", "caption": caption} for caption in ("fine", "the end</s>", "<unk> cat")]
    (tmp_path / "l.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    check = PairCheck(open_pairs("p", tmp_path / "l.jsonl"))
    list(check)
    assert check.faults == {Fault.CONTROL_TOKEN: 2} and check.read == 1
