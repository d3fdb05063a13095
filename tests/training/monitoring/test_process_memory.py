"""Memory that training gives back."""

import pytest

import owl2.training.monitoring.process_memory as memory

GIB = 1 << 30


@pytest.mark.parametrize(
    "held",  # in GiB: after the first release, then before each later decision
    [[100, 130, 141, 139, 150], [0.5, 1.4, 1.6, 1.5, 1.7]],
    ids=["a large model may grow by a share", "a small one by a gibibyte"],
)
def test_memory_is_released_after_the_first_step_and_when_it_has_grown_too_far(held, monkeypatch) -> None:
    released = []
    held = iter([int(value * GIB) for value in held])
    monkeypatch.setattr(memory, "release_free_memory", lambda: released.append(True))
    keep = memory.memory_keeper(lambda: next(held))

    counts = []
    for _ in range(5):
        keep()
        counts.append(len(released))

    assert counts == [1, 1, 2, 2, 3]


def test_resident_memory_grows_by_what_is_held_and_falls_after_a_release() -> None:
    before = memory.resident_bytes()
    held = [bytearray(b"x" * 1_000_000) for _ in range(256)]  # more than the process may hold in reserve
    during = memory.resident_bytes()
    del held
    memory.release_free_memory()

    assert before > 0
    assert during - before > 150_000_000
    assert memory.resident_bytes() < during - 100_000_000
