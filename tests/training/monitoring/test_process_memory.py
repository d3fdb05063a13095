"""Memory that training gives back."""

import owl2.training.monitoring.process_memory as memory


def test_memory_is_released_after_the_first_step_and_whenever_it_has_grown_by_the_allowed_share(monkeypatch) -> None:
    released = []
    held = iter([100, 130, 141, 139, 150])  # after the first release, then before each later decision
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
