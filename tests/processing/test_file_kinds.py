"""Files that are no images: the error says what they look like, and what to do."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owl2.processing import load_image, load_video

HEIC = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(200)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (HEIC, "HEIC picture.*convert it to JPEG"),
        (HEIC.replace(b"ftypheic", b"ftypmif1"), "HEIC picture"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS.*git lfs pull"),
        (b"/annex/objects/MD5E-s1--x.jpg\n", "git-annex.*git annex get"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page.*download it again"),
        (b"<HTML><HEAD></HEAD></HTML>", "web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML.*download it again"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG.*PNG"),
        (b'{"message": "Not Found"}', "JSON.*download it again"),
        (b"%PDF-1.4\n", "PDF"),
        (bytes(128) + b"DICM" + bytes(50), "DICOM"),
        (b"\x93NUMPY\x01\0", "NumPy"),
        (b"PK\x03\x04rest", "zip archive"),
        (struct.pack(">I", 24) + b"ftypisom" + bytes(40), "it is a video"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "audio"),
        (bytes(5000), "nothing but zeros"),
    ],
)
def test_the_error_says_what_a_file_looks_like(tmp_path: Path, contents: bytes, words: str) -> None:
    (tmp_path / "a.jpg").write_bytes(contents)
    with pytest.raises(ValueError, match=rf"a\.jpg is not an image that can be read.*{words}"):
        load_image(tmp_path / "a.jpg")


def test_of_a_video_it_says_the_same(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="not a video that can be read.*git lfs pull"):
        load_video(tmp_path / "a.mp4")


def test_pixels_that_are_no_numbers_are_black_and_the_others_as_they_are(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    plain = load_image(_saved(values, tmp_path / "plain.tif"))
    values[0, 0], values[3, 3], values[7, 7] = np.nan, np.inf, -np.inf
    found, expected = np.asarray(load_image(_saved(values, tmp_path / "nan.tif"))), np.array(plain)
    expected[0, 0] = expected[3, 3] = expected[7, 7] = 0
    assert np.abs(found.astype(int) - expected).max() <= 5 and found.max() > 240


def test_a_file_url_is_read_as_its_path(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a b.png")
    assert load_image(f"file://{tmp_path}/a%20b.png").getpixel((0, 0)) == (255, 0, 0)


def _saved(values: np.ndarray, path: Path) -> Path:
    Image.fromarray(values).save(path)
    return path
