"""How long a target runs: a few inputs in the tests, its share of `OWL2_FUZZ_MINUTES` in `make fuzz`."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz.bounds import MIB, bounded, refused_or_read, skip_unless_linux
from fuzz.inputs import STRAY_PATHS
from PIL import Image

hypothesis = pytest.importorskip("hypothesis")

MINUTES = float(os.environ.get("OWL2_FUZZ_MINUTES", 0))

Fuzz = Callable[..., None]


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """The folder that a target may read, beside one that it may not; ways from one to the other are in it."""
    folder, outside = tmp_path / "inside", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    Image.new("RGB", (4, 4)).save(outside / "secret.png")
    Image.new("RGB", (6, 4)).save(folder / "a.png")
    frames = [Image.new("L", (4, 4), 60 * shade) for shade in range(3)]
    frames[0].save(folder / "v.gif", save_all=True, append_images=frames[1:])
    (folder / STRAY_PATHS[1]).symlink_to(outside / "secret.png")
    return folder


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, inside: Path) -> Fuzz:
    """Tries inputs of a strategy, the same ones in every run; in `make fuzz` others after them, until time is up.

    Its arguments: the strategy; what is done with an input; how many inputs in the tests; what an error must name; how
    much memory an input may take.
    """
    skip_unless_linux()
    seconds = 60 * MINUTES / len(request.session.items)

    def run(
        strategy: Any, check: Callable[[Any], Any], examples: int, named: str | None = None, memory: int = 256 * MIB
    ) -> None:
        def holds(value: Any) -> None:
            with bounded(inside.parent / "outside", memory):
                try:
                    refused_or_read(check, value, named)
                except Exception as error:
                    error.add_note(f"Input: {value!r:.2000}")
                    raise

        began, number = time.monotonic(), 0
        while number == 0 or time.monotonic() - began < seconds:
            tried = hypothesis.settings(
                max_examples=examples,
                database=None,
                deadline=None,
                phases=[hypothesis.Phase.generate],  # the input is shown as it is: making it smaller takes minutes
                suppress_health_check=list(hypothesis.HealthCheck),
            )(hypothesis.seed(number)(hypothesis.given(strategy)(holds)))
            tried()
            number += 1

    return run
