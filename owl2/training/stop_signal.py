"""A signal to stop, turned into a request that the training loop honours after a step."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Turns Ctrl-C and SIGTERM into a request to stop after the step; a second one stops at once."""
    received: list[int] = []

    def request(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
