"""Memory that training gives back."""

import pytest

import owl2.training.monitoring.process_memory as memory

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
