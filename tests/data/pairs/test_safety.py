"""Whatever lies in a shard, the run continues: what cannot be used is skipped and counted, and nothing is written."""

import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from owl2.data.pairs import PairCheck, PairSamples, PairSettings, Shard, TarShards, index_shards
from owl2.data.pairs.samples import open_image
from owl2.data.sampler import Draw
from owl2.data.skipped import Fault, InvalidSample

MakeTar = Callable[..., Path]


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def opened(folder: Path) -> tuple[TarShards, list[Shard]]:
    found = list(index_shards(folder))
    return TarShards("web", folder), found


def faults_of(folder: Path) -> dict[str, int]:
    check = PairCheck(opened(folder)[0])
    list(check)
    return {str(fault): count for fault, count in check.faults.items()} | {"good": check.read}


def samples_of(folder: Path, epochs: int = 2) -> list[dict[str, Any]]:
    """All samples that a run takes in some epochs over the shards."""
    samples = PairSamples([opened(folder)[0]], PairSettings(16))
    size = samples.orders["web"].size
    return [samples[Draw("web", epoch, position)].sample for epoch in range(epochs) for position in range(size)]


def bomb(side: int) -> bytes:
    """A PNG of `side` x `side` pixels in some kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 3751 * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def hostile_images(jpeg: bytes) -> dict[str, bytes]:
    return {
        "bomb.png": bomb(30_000),  # Pillow refuses it
        "small-bomb.png": bomb(12_000),  # Pillow would only warn
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "noise.jpg": b"\x00\x01" * 500,
        "page.jpg": b"<html>404</html>",
        "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "none.webp": b"",
    }


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_images_are_skipped_and_counted_by_kind(make_tar: MakeTar, make_jpeg: Callable[..., bytes]) -> None:
    members = [("good.jpg", make_jpeg(0)), ("good.txt", b"good")]
    for name, content in hostile_images(make_jpeg(0)).items():
        key = name.split(".")[0]
        members += [(name, content), (f"{key}.txt", b"bad")]
    folder = make_tar(*members)
    assert faults_of(folder) == {"good": 1, "image oversized": 2, "image damaged": 5}
    assert {sample["caption"] for sample in samples_of(folder)} == {"good"}


def unusual_images() -> dict[str, bytes]:
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    deep = Image.fromarray(generator.integers(0, 65536, (24, 32), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [picture.convert("P"), picture.rotate(90).convert("P")]
    return {
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG"),
        "palette.png": encoded(picture.quantize(16), "PNG"),
        "transparent.png": encoded(picture.convert("RGBA"), "PNG"),
        "deep.png": encoded(deep, "PNG"),
        "rotated.jpg": encoded(picture, "JPEG", exif=exif),
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": encoded(picture, "WEBP", save_all=True, append_images=[picture.rotate(90)]),
        "grey.jpg": encoded(picture.convert("L"), "JPEG"),
        "line.png": encoded(picture.resize((700, 1)), "PNG"),
        "dot.png": encoded(picture.resize((1, 1)), "PNG"),
        "one-bit.png": encoded(picture.convert("1"), "PNG"),
        "progressive.jpg": encoded(picture, "JPEG", progressive=True),
    }


@pytest.mark.parametrize("name", unusual_images())
def test_unusual_images_become_pixels(make_tar: MakeTar, name: str) -> None:
    folder = make_tar((name, unusual_images()[name]), (f"{name.split('.')[0]}.txt", b"caption"))
    assert [sample["pixel_values"].shape for sample in samples_of(folder)] == [(1, 3, 16, 16)] * 2


def test_an_image_with_an_exif_rotation_is_upright(make_tar: MakeTar) -> None:
    folder = make_tar(("rotated.jpg", unusual_images()["rotated.jpg"]), ("rotated.txt", b"caption"))
    assert open_image(opened(folder)[0].read(0, 0)).size == (24, 32)


@pytest.mark.parametrize(
    ("caption", "fault"),
    [
        (b"", Fault.EMPTY_CAPTION),
        (b" \n\t ", Fault.EMPTY_CAPTION),
        ("\u200b\ufeff".encode(), Fault.EMPTY_CAPTION),
        (b"\xff\xfe caption", Fault.INVALID_CAPTION),
        (b"cut \xe2\x82", Fault.INVALID_CAPTION),
    ],
)
def test_captions_that_are_empty_or_no_text_are_counted_apart(
    make_tar: MakeTar, make_jpeg: Callable[..., bytes], caption: bytes, fault: Fault
) -> None:
    folder = make_tar(("a.jpg", make_jpeg(0)), ("a.txt", caption), ("b.jpg", make_jpeg(0)), ("b.txt", b"good"))
    assert faults_of(folder) == {"good": 1, str(fault): 1}


@pytest.mark.parametrize(
    "content", [b"{", b'{"caption": "\\ud83d"}', b"[1]", b'{"caption": 3}', b"[" * 100_000, b'"x"']
)
def test_json_of_any_kind_ends_nothing(make_tar: MakeTar, make_jpeg: Callable[..., bytes], content: bytes) -> None:
    folder = make_tar(("a.jpg", make_jpeg(0)), ("a.json", content), ("b.jpg", make_jpeg(0)), ("b.txt", b"good"))
    assert faults_of(folder)["good"] == 1
    assert {sample["caption"] for sample in samples_of(folder)} == {"good"}


@pytest.mark.parametrize("key", ["../../outside", "/tmp/absolute", "a/../../b", "..", "back\\..\\slash"])
def test_members_that_climb_out_are_refused_and_nothing_is_written(
    make_tar: MakeTar, make_jpeg: Callable[..., bytes], tmp_path: Path, key: str
) -> None:
    folder = make_tar(
        (f"{key}.jpg", make_jpeg(0)), (f"{key}.txt", b"bad"), ("good.jpg", make_jpeg(0)), ("good.txt", b"good")
    )
    everything = sorted(str(path) for path in tmp_path.rglob("*"))
    found = faults_of(folder)
    assert found.pop("good") == 1 and sum(found.values()) <= 1
    assert {sample["caption"] for sample in samples_of(folder)} == {"good"}
    written = {str(path.relative_to(folder)) for path in tmp_path.rglob("*") if str(path) not in everything}
    assert written == {".owl2-index", ".owl2-index/shards.json", ".owl2-index/00000.tar.idx"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("first", [True, False])
def test_links_and_devices_are_never_followed(
    make_tar: MakeTar, make_jpeg: Callable[..., bytes], kind: bytes, first: bool
) -> None:
    link = tarfile.TarInfo("a.jpg")
    link.type, link.linkname = kind, "/etc/hostname"
    pair: list[Any] = [link, ("a.txt", b"bad")] if first else [("a.txt", b"bad"), link]
    good = [("0.jpg", make_jpeg(0)), ("0.txt", b"good"), ("b.jpg", make_jpeg(0)), ("b.txt", b"good")]
    folder = make_tar(*good[:2], *pair, *good[2:])
    found = faults_of(folder)
    assert found.pop("good") == 2
    assert found in ({"path, link or address refused": 1}, {"image missing": 1})


def test_a_sparse_member_that_claims_to_be_huge_is_not_expanded(
    make_tar: MakeTar, make_jpeg: Callable[..., bytes]
) -> None:
    folder = make_tar(("a.jpg", b"x" * 512), ("a.txt", b"bad"), ("b.jpg", make_jpeg(0)), ("b.txt", b"good"))
    file = folder / "00000.tar"
    octets = bytearray(file.read_bytes())
    header = octets[:512]
    header[156:157] = b"S"  # GNU sparse: a map of what is no hole, and the size with holes
    header[257:265] = b"ustar  \0"
    header[386:410] = b"%011o\0%011o\0" % (0, 512)
    header[483:495] = b"%011o\0" % (1 << 32)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    octets[:512] = header
    file.write_bytes(octets)
    assert faults_of(folder) == {"good": 1, "image oversized": 1}


def test_keys_that_come_twice_are_counted_or_are_two_pairs(make_tar: MakeTar, make_jpeg: Callable[..., bytes]) -> None:
    twice = [("a.jpg", make_jpeg(0)), ("a.txt", b"one"), ("a.jpg", make_jpeg(1)), ("a.txt", b"two")]
    good = [("b.jpg", make_jpeg(2)), ("b.txt", b"good")]
    assert faults_of(make_tar(*twice, *good, name="beside")) == {"good": 1, "key more than once": 1}
    assert faults_of(make_tar(*twice[:2], *good, *twice[2:], name="apart")) == {"good": 3}


def test_a_pair_without_image_or_caption_is_counted(make_tar: MakeTar, make_jpeg: Callable[..., bytes]) -> None:
    folder = make_tar(("a.jpg", make_jpeg(0)), ("b.txt", b"alone"), ("c.jpg", make_jpeg(0)), ("c.txt", b"good"))
    assert faults_of(folder) == {"good": 1, "caption missing": 1, "image missing": 1}


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.77, 0.999])
def test_a_shard_that_is_cut_off_gives_the_pairs_before_the_cut(shards: Callable[..., Path], share: float) -> None:
    folder = shards(12, 3)
    file = folder / "00000.tar"
    octets = file.read_bytes()
    whole = max(octets.rfind(b"000000011.txt"), 0) + 1024  # what follows are zeros
    file.write_bytes(octets[: int(whole * share)])
    source, found = opened(folder)
    assert found[1] == Shard("00001.tar", 3, (folder / "00001.tar").stat().st_size)
    assert found[0].pairs <= 12 and (found[0].pairs < 12 * share + 1)
    check = PairCheck(source)
    assert list(check) == [] and check.read == found[0].pairs + 3
    assert found[0].problem is not None and source.problems[0].startswith("00000.tar: cut off or damaged")
    assert len(samples_of(folder, epochs=1)) == sum(source.groups)


@pytest.mark.parametrize("content", [b"", b"not a tar file" * 100, b"\x1f\x8b\x08" + b"\0" * 600, b"\0" * 10240])
def test_a_file_that_is_no_tar_file_is_named_and_the_others_are_read(
    shards: Callable[..., Path], content: bytes
) -> None:
    folder = shards(3)
    (folder / "00001.tar").write_bytes(content)
    source, found = opened(folder)
    assert found[1].pairs == 0 and (found[1].problem is not None or not content.strip(b"\0"))
    check = PairCheck(source)
    assert list(check) == [] and check.read == 3


def test_a_cut_between_two_members_is_noticed_too(shards: Callable[..., Path]) -> None:
    folder = shards(6)
    file = folder / "00000.tar"
    octets = file.read_bytes()
    file.write_bytes(octets[: octets.find(b"000000003.jpg")])
    found = opened(folder)[1]
    assert found[0].pairs == 3 and found[0].problem is not None and "cut off" in found[0].problem


def test_damage_in_the_middle_is_noticed(shards: Callable[..., Path]) -> None:
    folder = shards(6)
    file = folder / "00000.tar"
    octets = bytearray(file.read_bytes())
    start = octets.find(b"000000003.jpg")
    octets[start : start + 512] = b"\xaa" * 512
    file.write_bytes(octets)
    source, found = opened(folder)
    assert found[0].pairs == 2 or found[0].pairs == 3
    assert found[0].problem is not None and "no header at byte" in found[0].problem
    assert len(samples_of(folder, epochs=1)) == sum(source.groups)


def test_a_shard_that_changed_after_it_was_indexed_ends_nothing(shards: Callable[..., Path]) -> None:
    folder = shards(6, 6)
    source = opened(folder)[0]
    octets = (folder / "00000.tar").read_bytes()
    (folder / "00000.tar").write_bytes(octets[: len(octets) // 3])
    check = PairCheck(source)
    list(check)
    assert check.read >= 6 and check.faults[Fault.UNREADABLE] >= 1
    (folder / "00001.tar").unlink()
    check = PairCheck(TarShards("web", folder))
    list(check)
    assert check.faults[Fault.UNREADABLE] >= 6


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"shards": [{"name": "../x.tar", "pairs": 1}]}', b'{"shards": [3]}', b"\xff"]
)
def test_a_damaged_index_says_so(shards: Callable[..., Path], content: bytes) -> None:
    folder = shards(2)
    opened(folder)
    (folder / ".owl2-index" / "shards.json").write_bytes(content)
    with pytest.raises(ValueError, match="index the shards again"):
        TarShards("web", folder)
    assert len(opened(folder)[0].groups) == 1, "and so it can be"


def test_an_index_file_that_is_cut_off_says_so(shards: Callable[..., Path]) -> None:
    folder = shards(2)
    source = opened(folder)[0]
    (folder / ".owl2-index" / "00000.tar.idx").write_bytes(b"\0" * 9)
    with pytest.raises(ValueError, match="index the shards again"):
        source.read(0, 0)


def test_broken_pairs_can_be_sent_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(InvalidSample(Fault.REFUSED, "text")))
    assert (error.fault, str(error)) == (Fault.REFUSED, "text")
