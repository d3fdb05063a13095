"""Memory that training gives back."""

import os
import subprocess
import sys

import pytest

import owl2.training.monitoring.process_memory as memory
from owl2.environment import MALLOC_SETTINGS

GIB = 1 << 30


@pytest.mark.parametrize(
    ("held", "releases"),  # GiB after each step, and after the first release
    [
        ([5, 2.4, 5.2, 5.5, 5.6, 5.8, 6.0, 6.3, 6.7], [1, 1, 1, 1, 2, 2, 2, 3]),
        ([0.8, 0.5, 0.7, 1.4, 1.6, 0.7, 1.4], [1, 1, 1, 2, 2, 2]),
    ],
    ids=["beyond a tenth over what a step needs", "of a small model, beyond a gibibyte over what lies between steps"],
)
def test_memory_is_released_after_the_first_step_and_when_it_has_grown(held, releases, monkeypatch) -> None:
    released = []
    steps = iter([int(value * GIB) for value in held])
    monkeypatch.setattr(memory, "release_free_memory", lambda: released.append(True))
    keep = memory.memory_keeper(lambda: next(steps))

    counts = []
    for _ in releases:
        keep()
        counts.append(len(released))

    assert counts == releases


def test_resident_memory_grows_by_what_is_held_and_falls_after_a_release() -> None:
    before = memory.resident_bytes()
    held = [bytearray(b"x" * 1_000_000) for _ in range(256)]  # more than the process may hold in reserve
    during = memory.resident_bytes()
    del held
    memory.release_free_memory()

    assert before > 0
    assert during - before > 150_000_000
    assert memory.resident_bytes() < during - 100_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
@pytest.mark.parametrize(("separate", "kept_megabytes"), [(True, 0), (False, 512)])
def test_the_memory_of_a_large_tensor_goes_back_when_it_is_freed_though_small_ones_came_after(
    separate, kept_megabytes
) -> None:
    program = f"""
import torch
from owl2.training.monitoring.process_memory import resident_bytes, separate_large_blocks
if {separate}:
    separate_large_blocks()
torch.ones(1000).sum()
before = resident_bytes()
large, small = torch.ones(128, 1_000_000), torch.ones(1000)
del large
print(resident_bytes() - before)
"""
    environment = {**os.environ, **MALLOC_SETTINGS}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1e6 == pytest.approx(kept_megabytes, abs=40)
