"""Images and videos with changed bytes: an upright RGB picture comes out, or a `ValueError` that names the file."""

import io
from pathlib import Path
from typing import Any

import pytest
from fuzz.bounds import MIB
from fuzz.conftest import Fuzz
from fuzz.inputs import changed_bytes
from PIL import Image

from owl2.processing import load_image, load_video

PIXELS = 1_000_000
"""The limit of pixels here; an image may take `BYTES_PER_PIXEL` times that and a little."""

BYTES_PER_PIXEL, A_LITTLE = 48, 64 * MIB


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS)


def saved(mode: str, format: str, **settings: Any) -> bytes:
    image = Image.linear_gradient("L").resize((20, 12)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


def images() -> list[bytes]:
    turned = Image.Exif()
    turned[0x0112] = 6
    return [
        *(saved(mode, "PNG") for mode in ("RGB", "RGBA", "P", "LA", "1", "I;16")),
        *(saved("RGB", "JPEG", exif=turned), saved("L", "JPEG", progressive=True), saved("CMYK", "JPEG")),
        *(saved("P", "GIF"), saved("RGBA", "WEBP"), saved("RGB", "BMP"), saved("L", "PPM"), saved("RGB", "ICO")),
        *(saved("F", "TIFF"), saved("RGB", "TIFF", compression="tiff_lzw"), saved("RGB", "TGA"), saved("RGB", "PCX")),
    ]


def test_an_image(fuzz: Fuzz) -> None:
    def check(contents: bytes) -> None:
        image = load_image(contents)
        assert image.mode == "RGB" and image.width * image.height <= PIXELS

    fuzz(changed_bytes(images()), check, 200, "the image of", PIXELS * BYTES_PER_PIXEL + A_LITTLE)


def animations() -> list[bytes]:
    frames = [Image.linear_gradient("L").rotate(30 * turn).resize((20, 12)) for turn in range(4)]
    found = []
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        buffer = io.BytesIO()
        frames[0].save(
            buffer, format, save_all=True, append_images=frames[1:], **({"duration": 100} if format != "TIFF" else {})
        )
        found.append(buffer.getvalue())
    return found


def test_an_animation(fuzz: Fuzz, inside: Path) -> None:
    fuzz(changed_bytes(animations()), lambda contents: load_frames(inside / "a.gif", contents), 60, "a.gif")


@pytest.mark.parametrize("suffix", ["mp4", "avi", "webm"])
def test_a_video(suffix: str, fuzz: Fuzz, inside: Path) -> None:
    av = pytest.importorskip("av")
    file = inside / f"a.{suffix}"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libvpx" if suffix == "webm" else "mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for shade in range(6):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (32, 16), (40 * shade, 0, 0)))))
        container.mux(stream.encode())
    fuzz(changed_bytes([file.read_bytes()]), lambda contents: load_frames(file, contents), 30, file.name)


def load_frames(file: Path, contents: bytes) -> None:
    file.write_bytes(contents)
    frames = load_video(file, 2)
    assert 1 <= len(frames) <= 2 and {frame.mode for frame in frames} == {"RGB"}
