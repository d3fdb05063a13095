"""What must hold whatever comes in: no error but ours, no hang, no file outside the folder, memory within a bound."""

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from owl2.cli.errors import user_errors

SECONDS = 20.0
"""Processor time of one input, in which the slowest takes well below one second."""

MIB = 1 << 20

REFUSED_EVENTS = ("socket.connect", "subprocess.Popen", "os.system", "pickle.find_class")

_seen: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event == "open" and isinstance(arguments[0], str | bytes):
        _seen.append(os.path.realpath(os.fsdecode(arguments[0]).replace("\0", "")))
    elif event in REFUSED_EVENTS:
        _seen.append(event)


sys.addaudithook(_audit)


class TooSlow(Exception):
    """More than `SECONDS` of processor time."""


def _too_slow(*_: Any) -> None:
    raise TooSlow(f"more than {SECONDS:g} s of processor time")


@contextmanager
def bounded(outside: Path, memory: int) -> Iterator[None]:
    """Fails if what runs inside opens a file below `outside`, reaches out, or goes beyond time or memory.

    Args:
        memory: Bytes beyond what the process holds before.
    """
    global _seen
    previous = signal.signal(signal.SIGPROF, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    began, held, opened = time.process_time(), _forget_peak(), []
    _seen = opened
    try:
        with warnings.catch_warnings(action="ignore"):  # of Pillow
            yield
    finally:
        _seen = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
    # Asked again, since a broad `except` may have taken the exception for that of a decoder.
    assert time.process_time() - began < SECONDS, f"more than {SECONDS:g} s of processor time"
    assert (grown := _peak() - held) <= memory, f"{grown / MIB:.0f} MiB more memory, over {memory / MIB:.0f}"
    strayed = [name for name in opened if name in REFUSED_EVENTS or Path(name).is_relative_to(outside)]
    assert not strayed, f"reached {strayed}"


def refused_or_read(check: Callable[[Any], Any], value: Any, named: str | None = None) -> None:
    """Lets a check pass that raises what a user sees as one line.

    Args:
        named: Must be in the message, such as the name of the file.
    """
    try:
        check(value)
    except AssertionError:
        raise
    except user_errors() as error:
        message = str(error)
        assert message.strip(), f"{type(error).__name__} says nothing"
        assert named is None or named in message, f"{type(error).__name__} does not name {named}: {message}"


def _forget_peak() -> int:
    """Resident bytes now, from which the peak is counted."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return sys.maxsize  # only Linux can tell
    return _peak()


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def skip_unless_linux() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("time and memory are measured on Linux")
