"""JPEGs decoded by simplejpeg, beside Pillow."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from owl2.data import jpeg
from owl2.data.augmentation import Crop
from owl2.data.decoding import crop_and_resize, decode_image, width_and_height
from owl2.data.jpeg import decode_jpeg
from owl2.processing import load_image


def picture(width: int, height: int) -> Image.Image:
    """Smooth colours with noise, so that chroma is interpolated everywhere."""
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (7, 5, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=int)
    noisy = smooth + generator.integers(-20, 20, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def pixels_of_pillow(contents: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))


@pytest.fixture
def simplejpeg() -> Any:
    return pytest.importorskip("simplejpeg")


@pytest.mark.parametrize("size", [(64, 48), (61, 47), (1, 1), (17, 300)])
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:2:0"},
        {"quality": 10, "progressive": True},
        {"keep_rgb": True},
        {"quality": 98, "optimize": True},
        {"restart_marker_blocks": 2},
        {"icc_profile": b"x" * 70_000, "comment": b"words"},
    ],
)
def test_pixels_are_exactly_pillows(simplejpeg: Any, size: tuple[int, int], options: dict[str, Any]) -> None:
    contents = encoded(picture(*size), **options)
    pixels = decode_jpeg(contents)
    assert pixels is not None and pixels.dtype == np.uint8
    assert np.array_equal(pixels[..., :3], pixels_of_pillow(contents))
    assert width_and_height(decode_image(contents)) == size


@pytest.mark.parametrize("crop", [Crop(0, 0, 61, 47), Crop(5, 9, 40, 31), Crop(20, 0, 1, 47, flip=True)])
def test_a_crop_is_the_same_tensor_whoever_decoded(simplejpeg: Any, crop: Crop) -> None:
    contents = encoded(picture(61, 47))
    decoded = decode_image(contents)
    assert isinstance(decoded, np.ndarray)
    assert torch.equal(crop_and_resize(decoded, crop, 24), crop_and_resize(load_image(contents), crop, 24))


@pytest.mark.parametrize("subsampling", ["440", "411"])
def test_pixels_of_rare_subsamplings_are_exactly_pillows(simplejpeg: Any, subsampling: str) -> None:
    contents = simplejpeg.encode_jpeg(np.asarray(picture(61, 47)), colorsubsampling=subsampling)
    pixels = decode_jpeg(contents)
    assert pixels is not None and np.array_equal(pixels[..., :3], pixels_of_pillow(contents))


def test_grey_is_grey(simplejpeg: Any) -> None:
    contents = encoded(picture(33, 20).convert("L"))
    pixels = decode_jpeg(contents)
    assert pixels is not None and np.array_equal(pixels[..., :3], pixels_of_pillow(contents))


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(32, 24), exif=exif)


def left_to_pillow() -> dict[str, bytes]:
    """Images that simplejpeg would get wrong, cannot read, or would read though they are damaged."""
    whole = encoded(picture(64, 48))
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    png = io.BytesIO()
    picture(8, 8).save(png, "PNG")
    return {
        "turned by EXIF": turned(),
        "turned by XMP": whole[:2] + b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp + whole[2:],
        "CMYK": encoded(picture(32, 24).convert("CMYK")),
        "cut short": whole[: len(whole) // 2],
        "cut in its header": whole[:30],
        "start only": whole[:3],
        "another marker": whole[:2] + b"\xff\x01" + whole[2:],
        "PNG": png.getvalue(),
        "nothing": b"",
    }


@pytest.mark.parametrize("name", left_to_pillow())
def test_everything_but_a_plain_whole_jpeg_is_left_to_pillow(simplejpeg: Any, name: str) -> None:
    contents = left_to_pillow()[name]
    assert decode_jpeg(contents) is None
    try:
        expected = load_image(contents)
    except ValueError as error:
        with pytest.raises(ValueError) as raised:
            decode_image(contents)
        assert str(raised.value) == str(error)
    else:
        decoded = decode_image(contents)
        assert isinstance(decoded, Image.Image) and np.array_equal(np.asarray(decoded), np.asarray(expected))


def test_a_decompression_bomb_is_not_decoded(simplejpeg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = encoded(picture(64, 48))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="decompression bomb"):
        decode_image(contents)


def test_files_are_decoded_as_bytes_are_and_errors_name_them(simplejpeg: Any, tmp_path: Path) -> None:
    contents = encoded(picture(20, 10))
    (tmp_path / "a.JPG").write_bytes(contents)
    decoded = decode_image(tmp_path / "a.JPG")
    assert isinstance(decoded, np.ndarray) and np.array_equal(decoded, decode_jpeg(contents))
    (tmp_path / "cut.jpg").write_bytes(contents[:-40])
    with pytest.raises(ValueError, match="cut.jpg is damaged"):
        decode_image(str(tmp_path / "cut.jpg"))
    with pytest.raises(ValueError, match="none.jpg' does not exist"):
        decode_image(str(tmp_path / "none.jpg"))


@pytest.mark.parametrize("lacking", ["simplejpeg", "libjpeg-turbo in Pillow"])
def test_without_either_library_pillow_decodes(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    if lacking == "simplejpeg":
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    else:
        monkeypatch.setattr("PIL.features.check_feature", lambda name: False)
    jpeg._simplejpeg.cache_clear()
    try:
        contents = encoded(picture(20, 10))
        decoded = decode_image(contents)
        assert isinstance(decoded, Image.Image) and np.array_equal(np.asarray(decoded), pixels_of_pillow(contents))
    finally:
        jpeg._simplejpeg.cache_clear()
