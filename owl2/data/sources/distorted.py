"""Pictures distorted by known amounts, with opinion scores by a stated rule: a set to try image quality on.

A scene (`owl2.data.sources.scenes`) is blurred, noised, compressed as JPEG or darkened with a severity s, drawn evenly
from 0 to 1. 20 raters then give 5 - 4 s with an error of their own (normal, deviation 0.5, cut to 1..5); the opinion
score is their mean, and their standard deviation goes with it. No order of such scores can be better than the raters
allow: the scores of two draws of them correlate at 0.99.
"""

import csv
import io
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from .scenes.drawing import draw
from .scenes.world import DIFFICULTIES, random_scene

RATERS = 20
RATER_DEVIATION = 0.5

COLUMNS = ("image", "score", "deviation", "distortion", "severity")


def write_distorted(out: Path, count: int, seed: int = 0, size: int = 64) -> Path:
    """Writes `opinions.csv` and `images/` into a new directory; other seeds give other pictures and distortions.

    Args:
        size: Pixels of a side.

    Returns:
        The CSV, which the source `quality` reads.

    Raises:
        ValueError: The directory exists and is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty: choose a new directory")
    (out / "images").mkdir(parents=True)
    file = out / "opinions.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number in range(count):
            generator = random.Random(f"{seed}-{number}")
            picture = draw(random_scene(generator, DIFFICULTIES["medium"], "train"), size)
            kind, severity = generator.choice(tuple(DISTORTIONS)), generator.random()
            score, deviation = rated(severity, generator)
            name = f"images/{number:06d}.png"
            distort(picture, kind, severity, generator.randrange(2**32)).save(out / name)
            writer.writerow((name, f"{score:.4f}", f"{deviation:.4f}", kind, f"{severity:.4f}"))
    return file


def rated(severity: float, generator: random.Random) -> tuple[float, float]:
    """The mean and standard deviation of the raters' scores of a severity."""
    raters = [min(5.0, max(1.0, generator.gauss(5 - 4 * severity, RATER_DEVIATION))) for _ in range(RATERS)]
    return statistics.fmean(raters), statistics.stdev(raters)


def distort(picture: Image.Image, kind: str, severity: float, seed: int = 0) -> Image.Image:
    """A picture with one of the `DISTORTIONS`; severity 0 leaves it as it is."""
    return DISTORTIONS[kind](picture, severity, seed) if severity > 0 else picture


def _blurred(picture: Image.Image, severity: float, seed: int) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(severity * picture.width / 20))


def _noised(picture: Image.Image, severity: float, seed: int) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float64)
    noise = np.random.default_rng(seed).normal(0, 70 * severity, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).round().astype(np.uint8))


def _compressed(picture: Image.Image, severity: float, seed: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=max(1, round(75 * (1 - severity) ** 2)))
    return Image.open(buffer).convert("RGB")


def _darkened(picture: Image.Image, severity: float, seed: int) -> Image.Image:
    return picture.point(lambda level: round(level * (1 - 0.85 * severity)))


DISTORTIONS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "blur": _blurred,
    "noise": _noised,
    "jpeg": _compressed,
    "darkness": _darkened,
}
"""The distortions by name; each takes a severity from 0 to 1 and a seed."""
