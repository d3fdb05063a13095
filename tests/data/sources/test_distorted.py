"""Pictures distorted by known amounts: reproducible, graded, and scored by the stated rule."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from owl2.data.sources import quality
from owl2.data.sources.distorted import DISTORTIONS, distort, rated, write_distorted


def test_the_set_is_the_same_for_a_seed_and_read_as_opinions(tmp_path: Path) -> None:
    first, again, other = (write_distorted(tmp_path / name, 12, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first.read_text() == again.read_text() != other.read_text()
    found = list(quality.read_opinions(first, first.parent))
    assert len(found) == 12 and all(1 <= row.score <= 5 and row.deviation for row in found)
    for row in found:
        with Image.open(row.path) as image, Image.open(again.parent / row.name) as copy:
            assert image.size == (64, 64) and image.tobytes() == copy.tobytes()
    with pytest.raises(ValueError, match="not empty"):
        write_distorted(tmp_path / "a", 1)


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_more_severe_is_further_from_the_picture(tmp_path: Path, kind: str) -> None:
    write_distorted(tmp_path / "set", 1)
    with Image.open(tmp_path / "set/images/000000.png") as opened:
        picture = opened.convert("RGB")
    pixels = np.asarray(picture, dtype=float)
    distances = [
        float(np.abs(np.asarray(distort(picture, kind, severity)) - pixels).mean()) for severity in (0, 0.3, 0.6, 1)
    ]
    assert distances[0] == 0 and distances == sorted(distances) and distances[3] > 2 * distances[1]


def test_opinions_follow_the_severity(tmp_path: Path) -> None:
    file = write_distorted(tmp_path / "set", 150)
    with file.open() as opened:
        found = list(csv.DictReader(opened))
    severities, scores = ([float(row[name]) for row in found] for name in ("severity", "score"))
    assert spearmanr(severities, scores).statistic < -0.98
    assert rated(0.5, random.Random(0))[0] == pytest.approx(3, abs=0.3)
    assert rated(0.0, random.Random(0))[0] < 5  # raters do not go beyond 5, so their mean stays below
