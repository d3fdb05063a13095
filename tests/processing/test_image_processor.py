"""Images from every source to the pixels that the official code makes of them."""

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from owl2.processing import Owl2ImageProcessorPil, load_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize(("aspect", "official"), [("resize", "resize"), ("pad", "pad"), ("crop", "none")])
@pytest.mark.parametrize("index", range(3))
def test_pixels_equal_the_official_ones(reference: Path, aspect: str, official: str, index: int) -> None:
    golden = load_file(reference / "preprocess" / "preprocess.safetensors")
    processor = Owl2ImageProcessorPil(size={"height": 28, "width": 28}, aspect=aspect)
    pixels = processor(golden[f"in/{index}"].numpy(), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 28, 28) and pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[0], golden[f"out/{official}/{index}"], rtol=0, atol=1e-6)


def test_images_of_a_list_keep_their_order_and_get_448_pixels_by_default() -> None:
    pixels = Owl2ImageProcessorPil()([Image.new("RGB", (9, 4), color) for color in ("black", "white")])
    assert [image.shape for image in pixels["pixel_values"]] == [(3, 448, 448)] * 2
    assert pixels["pixel_values"][0].max() < pixels["pixel_values"][1].min()


def test_settings_of_clip_are_read_as_a_square() -> None:
    settings = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}, "do_center_crop": True}
    assert dict(Owl2ImageProcessorPil(**settings).size) == {"height": 56, "width": 56}


def test_settings_survive_saving(tmp_path: Path) -> None:
    Owl2ImageProcessorPil(size={"height": 42, "width": 28}, aspect="pad").save_pretrained(tmp_path)
    loaded = Owl2ImageProcessorPil.from_pretrained(tmp_path)
    assert dict(loaded.size) == {"height": 42, "width": 28} and loaded.aspect == "pad"


def test_unknown_aspect_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="aspect='squash'.*resize, pad, crop"):
        Owl2ImageProcessorPil(aspect="squash")


def test_every_source_gives_the_same_image(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    contents = encoded(image)
    (tmp_path / "image.png").write_bytes(contents)
    url = "data:image/png;base64," + base64.b64encode(contents).decode()
    plain = base64.b64encode(contents).decode()
    sources = [plain, image, tmp_path / "image.png", str(tmp_path / "image.png"), contents, url, np.asarray(image)]
    for source in sources:
        loaded = load_image(source)
        assert loaded.mode == "RGB" and np.array_equal(np.asarray(loaded), np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGBA", "LA", "I;16", "I", "F"])
def test_every_kind_of_pixel_becomes_rgb_of_the_same_brightness(mode: str) -> None:
    if mode in ("I;16", "I"):
        image = Image.fromarray(np.full((3, 4), 65535, dtype=np.uint16 if mode == "I;16" else np.int32), mode=None)
    else:
        image = Image.new("RGB", (4, 3), WHITE).convert(mode)
    loaded = load_image(image)
    assert loaded.mode == "RGB" and loaded.size == (4, 3)
    assert loaded.getpixel((0, 0)) == WHITE


def test_16_bit_grey_is_scaled_not_cut() -> None:
    grey = encoded(Image.fromarray(np.full((2, 2), 65535 // 2, dtype=np.uint16)))
    assert load_image(grey).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize(
    ("size", "aspect"), [((3, 500), "resize"), ((500, 3), "resize"), ((40, 500), "pad"), ((500, 40), "crop")]
)
def test_a_very_long_image_is_never_made_a_square_of_its_length(
    size: tuple[int, int], aspect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    width, height = size
    shades = np.add.outer(np.linspace(0, 200, height), np.linspace(0, 55, width)).astype(np.uint8)
    image = Image.fromarray(shades).convert("RGB")
    processor = Owl2ImageProcessorPil(size={"height": 28, "width": 28}, aspect=aspect)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    official = processor([image])["pixel_values"][0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 28 * 350 - 1)  # what the crop would be made of
    made = []
    new, resize = Image.new, Image.Image.resize

    def recorded(image: Image.Image) -> Image.Image:
        made.append(image.width * image.height)
        return image

    monkeypatch.setattr(Image, "new", lambda *arguments: recorded(new(*arguments)))
    monkeypatch.setattr(Image.Image, "resize", lambda *arguments: recorded(resize(*arguments)))
    pixels = processor([image])["pixel_values"][0]
    assert max(made) < 28 * 350
    assert np.abs(pixels - official).max() < 0.2  # of 4, from black to white


def test_an_image_that_pillow_cannot_resize_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:  # as Pillow does for 80,000,000 x 1 pixels, which need 320 MB here
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", refuse)
    with pytest.raises(ValueError, match="300 x 2 pixels cannot be resized"):
        Owl2ImageProcessorPil()([Image.new("RGB", (300, 2))])


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_transparent_colour_becomes_white(mode: str) -> None:
    image = Image.new("L", (2, 1))
    image.putpixel((1, 0), 80)
    contents = encoded(image.convert(mode), transparency=0 if mode == "L" else (0, 0, 0))
    loaded = load_image(contents)
    assert (loaded.getpixel((0, 0)), loaded.getpixel((1, 0))) == (WHITE, (80, 80, 80))


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparent_areas_become_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (*RED, 255))
    loaded = load_image(encoded(image.convert(mode) if mode == "P" else image))
    assert (loaded.getpixel((0, 0)), loaded.getpixel((1, 0))) == (WHITE, RED)


def test_exif_orientation_turns_a_file_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: to be shown rotated by 90 degrees clockwise
    (tmp_path / "phone.jpg").write_bytes(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif))
    assert load_image(tmp_path / "phone.jpg").size == (20, 40)
    assert load_image(Image.open(tmp_path / "phone.jpg")).size == (20, 40)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size; its pixels are never read."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\x00\x00\x00\x00IEND\xaeB`\x82"


@pytest.mark.parametrize("side", [10_000, 30_000])  # where Pillow only warns, and where it refuses
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_by_name_and_size(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    with pytest.raises(ValueError, match=rf"bomb\.png.*{side * side} pixels"):
        load_image(tmp_path / "bomb.png")


def test_damaged_files_are_errors_that_name_the_file(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    files = {
        "empty.png": b"",
        "text.png": b"this is no image",
        "cut.png": encoded(noise)[:3000],
        "cut.jpg": encoded(noise, "JPEG")[:1500],
        "header.png": encoded(noise)[:12],
    }
    for name, contents in files.items():
        (tmp_path / name).write_bytes(contents)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            load_image(tmp_path / name)


def test_what_is_no_image_is_an_error_that_says_why(tmp_path: Path) -> None:
    for source, reason in [
        (tmp_path / "none.png", r"none\.png' does not exist"),
        (tmp_path, "is not a file"),
        ("https://example.com/cat.png", "web address"),
        ("data:image/png;base64,###", "not valid base64"),
        ("data:text/plain,cat", "not base64"),
        (np.zeros((3, 4, 5), dtype=np.uint8), r"\[3, 4, 5\]"),
        (np.zeros((3, 4, 3), dtype=np.float32), "float32"),
        (None, "NoneType"),
        ("a" * 5000, r"does not exist"),
        ("a\0b", "does not exist"),
    ]:
        with pytest.raises(ValueError, match=reason):
            load_image(source)
