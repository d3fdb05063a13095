"""A scene as an image: drawn from masks that are made once, and resized as models resize their images."""

import base64
import io
import math
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from .world import RADII, SIGN_SIZE, Scene

RGB = {
    "red": (222, 45, 38),
    "blue": (38, 84, 214),
    "green": (35, 150, 60),
    "yellow": (250, 208, 20),
    "purple": (140, 50, 175),
    "orange": (247, 130, 20),
    "cyan": (40, 196, 214),
    "gray": (135, 138, 142),
}
_INK = (25, 25, 30)
_PAPER = (255, 255, 255)
PICTURE_SIZE = 256
"""The side, in pixels, at which a scene is drawn; larger images are drawn at their own size."""


def draw(scene: Scene, size: int) -> Image.Image:
    """The scene as an RGB image of `size` pixels a side, the same on every call.

    Up to `PICTURE_SIZE`, it is the picture of that size, resized (bicubic, as in `Owl2ImageProcessor`), so
    that a model may learn from small images and be measured on pictures that it resizes itself.
    """
    side = max(size, PICTURE_SIZE)
    canvas = Image.new("RGB", (side, side), scene.background)
    for thing in scene.things:
        radius = round(RADII[thing.size] * side)
        corner = round(thing.x * side) - radius, round(thing.y * side) - radius
        color = RGB[thing.color]
        dark, light = _mixed(color, (0, 0, 0), 0.45), _mixed(color, (255, 255, 255), 0.72)
        outer, inner, pattern = _masks(thing.shape, thing.texture, radius, side)
        canvas.paste(dark, corner, outer)
        canvas.paste(color, corner, inner)
        if pattern is not None:
            canvas.paste(light, corner, pattern)
    if scene.sign is not None:
        board = _sign(scene.sign.text, side)
        center = round(scene.sign.x * side), round(scene.sign.y * side)
        canvas.paste(board, (center[0] - board.width // 2, center[1] - board.height // 2))
    return canvas if size == side else canvas.resize((size, size), Image.Resampling.BICUBIC)


def data_url(image: Image.Image) -> str:
    """The image as a data URL, which `load_image` reads: a bitmap, which takes less time than PNG."""
    return f"data:image/bmp;base64,{base64.b64encode(image_bytes(image, 'BMP')).decode()}"


def image_bytes(image: Image.Image, form: str = "PNG") -> bytes:
    """The image as the contents of a file."""
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def _mixed(color: tuple[int, int, int], other: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(color, other, strict=True))
    return red, green, blue


@lru_cache(maxsize=256)
def _masks(shape: str, texture: str, radius: int, side: int) -> tuple[Image.Image, Image.Image, Image.Image | None]:
    """Masks of a thing, of its colour inside the outline, and of its pattern."""
    box = 2 * radius + 1
    outer = _silhouette(shape, radius, radius, box)
    inner = _silhouette(shape, radius, radius - max(side // 90, 1), box)
    if texture == "plain":
        return outer, inner, None
    pattern = Image.new("L", (box, box), 0)
    pen = ImageDraw.Draw(pattern)
    step = side / 19
    if texture == "striped":
        for number in range(-math.ceil(box / step) - 1, math.ceil(box / step) + 1):
            start = radius + number * step
            pen.line((start - box / 2, box, start + box / 2, 0), fill=255, width=round(step * 0.42))
    else:
        dot = step * 0.3
        half = math.ceil(radius / step) + 1
        for row in range(-half, half + 1):
            for column in range(-half, half + 1):
                x, y = radius + (column + row % 2 / 2) * step, radius + row * step * 0.87
                pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=255)
    masked = Image.new("L", (box, box), 0)
    masked.paste(pattern, (0, 0), inner)
    return outer, inner, masked


def _silhouette(shape: str, center: int, radius: float, box: int) -> Image.Image:
    mask = Image.new("L", (box, box), 0)
    pen = ImageDraw.Draw(mask)
    if shape == "circle":
        pen.ellipse(_around(center, center, radius * 0.95), fill=255)
    if shape == "moon":
        outline = center - radius
        pen.ellipse(_around(center * 1.12, center, radius * 0.95), fill=255)
        pen.ellipse(_around(center * 1.64, center * 0.88, center * 0.78 + outline), fill=0)
    if shape == "heart":
        lobe = radius * 0.53
        for side in (-1, 1):
            pen.ellipse(_around(center + side * radius * 0.45, center - radius * 0.38, lobe), fill=255)
        points = [(-0.93, -0.18), (0.93, -0.18), (0.0, 0.95), (-0.93, -0.18)]
        pen.polygon([(center + x * radius, center + y * radius) for x, y in points], fill=255)
        pen.rectangle((center - radius * 0.4, center - radius * 0.4, center + radius * 0.4, center), fill=255)
    if shape in _OUTLINES:
        pen.polygon([(center + x * radius, center + y * radius) for x, y in _OUTLINES[shape]], fill=255)
    return mask


def _around(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius, y + radius


def _star() -> list[tuple[float, float]]:
    angles = [(math.pi * number / 5 - math.pi / 2, 1.05 if number % 2 == 0 else 0.45) for number in range(10)]
    return [(math.cos(angle) * radius, math.sin(angle) * radius + 0.06) for angle, radius in angles]


_ARM = 0.34
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(0, -0.95), (1, 0.85), (-1, 0.85)],
    "diamond": [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)],
    "star": _star(),
    "cross": [
        *((-_ARM, -0.95), (_ARM, -0.95), (_ARM, -_ARM), (0.95, -_ARM), (0.95, _ARM), (_ARM, _ARM)),
        *((_ARM, 0.95), (-_ARM, 0.95), (-_ARM, _ARM), (-0.95, _ARM), (-0.95, -_ARM), (-_ARM, -_ARM)),
    ],
}
"""Corners of the shapes that are polygons, in radii from the centre."""


@lru_cache(maxsize=64)
def _sign(text: str, side: int) -> Image.Image:
    width, height = (round(share * side) for share in SIGN_SIZE)
    board = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(board)
    pen.rectangle((0, 0, width - 1, height - 1), outline=_INK, width=max(side // 90, 1))
    font = ImageFont.load_default(side * 0.15)
    pen.text((width / 2, height / 2), text, fill=_INK, font=font, anchor="mm", stroke_width=side // 256)
    return board
