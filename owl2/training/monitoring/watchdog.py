"""Reports a rank that makes no progress, by name, and ends the run instead of letting it hang.

Each rank writes its host, process, step and what it is doing to the key-value store that torchrun has anyway, from a
thread that needs no collective, so that ranks that wait for a stalled one can name it: the others are ahead of it, or
its process has stopped writing.
"""

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from torch import distributed as dist

EXIT_CODE = 75
"""The exit code of a run that ended because a rank stalled: EX_TEMPFAIL of sysexits.h, "try again"."""

BEATS_PER_LIMIT = 8
"""The number of heartbeats within the time limit."""

PHASES = ("data", "compute", "evaluation", "checkpoint")
"""The phases of a rank in a step, in their order."""


class Heartbeat(NamedTuple):
    """The last report of a rank.

    Attributes:
        beat: Counts up while the process lives.
        step, phase: Step that it is at, and one of `PHASES`.
        part: Progress in a long phase; the same number on all ranks that have done their share.
    """

    host: str
    pid: int
    beat: int
    step: int
    phase: str
    part: int = 0

    @property
    def progress(self) -> tuple[int, int, int]:
        return self.step, PHASES.index(self.phase), self.part


class StallTracker:
    """Decides from heartbeats whether the run has stalled and on which rank; it only compares times of one clock.

    Args:
        limit_s: Time of silence of a rank, or of standstill of all, that is a stall.
        now: Time at which the ranks started.
    """

    def __init__(self, limit_s: float, size: int, now: float) -> None:
        self.limit_s = limit_s
        self._last: list[Heartbeat | None] = [None] * size
        self._heard = [now] * size
        self._moved = now

    def observe(self, rank: int, heartbeat: Heartbeat, now: float) -> None:
        """Notes the heartbeat of a rank."""
        last = self._last[rank]
        if last is None or last.beat != heartbeat.beat:
            self._heard[rank] = now
        if last is None or last.progress != heartbeat.progress:
            self._moved = now
        self._last[rank] = heartbeat

    def report(self, now: float) -> str | None:
        """`None` as long as all is well, otherwise a report that names the stalled ranks first."""
        silent = [rank for rank, heard in enumerate(self._heard) if now - heard > self.limit_s]
        if silent:
            return self._text(silent, f"gave no sign of life for {self.limit_s:g} s: stopped, dead or cut off")
        if now - self._moved <= self.limit_s:
            return None
        progress = [heartbeat.progress for heartbeat in self._last if heartbeat is not None]
        behind = [rank for rank, beat in enumerate(self._last) if beat and beat.progress < max(progress)]
        if behind:
            return self._text(behind, f"made no progress for {self.limit_s:g} s, and the others wait for it")
        everyone = list(range(len(self._last)))
        return self._text(everyone, f"made no progress for {self.limit_s:g} s, and none is behind the others")

    def _text(self, ranks: list[int], what: str) -> str:
        named = [f"rank {rank} ({self._describe(self._last[rank])})" for rank in ranks]
        shown = ", ".join(named[:16]) + (f" and {len(named) - 16} more" if len(named) > 16 else "")
        ahead = [heartbeat for heartbeat in self._last if heartbeat is not None]
        furthest = max(ahead, key=lambda heartbeat: heartbeat.progress, default=None)
        others = f". The furthest rank is at step {furthest.step}, {furthest.phase}" if furthest else ""
        return f"the run has stalled: {shown} {what}{others}"

    @staticmethod
    def _describe(heartbeat: Heartbeat | None) -> str:
        if heartbeat is None:
            return "never heard of"
        return f"host {heartbeat.host}, process {heartbeat.pid}, step {heartbeat.step}, {heartbeat.phase}"


class Watchdog:
    """Sends heartbeats of this rank and watches those of the others; a context manager around the training loop.

    Inside it every rank calls `progress` for each phase. A single process waits for no other and is not watched.

    Args:
        limit_s: See `StallTracker`. Held-out loss and a blocking save must fit into it.
        end: Ends this process with the report; tests replace it.
    """

    def __init__(self, limit_s: float, end: Callable[[str], Any] | None = None) -> None:
        self.limit_s = limit_s
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._end = end or _end_process
        self._own = Heartbeat(socket.gethostname(), os.getpid(), 0, 0, PHASES[0])
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def progress(self, step: int, phase: str, part: int = 0) -> None:
        """Notes what this rank begins now: one of `PHASES`, or a part of it; see `Heartbeat`."""
        self._own = self._own._replace(step=step, phase=phase, part=part)

    def __enter__(self) -> "Watchdog":
        if self.size > 1:
            store = _new_store(self.limit_s)
            store.set(str(self.rank), json.dumps(self._own))
            self._thread = threading.Thread(target=self._watch, args=(store,), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, store: dist.Store) -> None:
        tracker = StallTracker(self.limit_s, self.size, time.monotonic())
        beat, answered = 0, time.monotonic()
        while not self._stopped.wait(self.limit_s / BEATS_PER_LIMIT):
            beat += 1
            try:
                store.set(str(self.rank), json.dumps(self._own._replace(beat=beat)))
                heard = _read(store, self.size)
                answered = time.monotonic()
            except RuntimeError as error:  # torch's errors of the store; without it nothing is known about the others
                if time.monotonic() - answered > self.limit_s and not self._stopped.is_set():
                    self._end(f"the run has stalled: the store of rank 0 does not answer rank {self.rank} ({error})")
                    return
                continue
            for rank, heartbeat in heard.items():
                tracker.observe(rank, heartbeat, time.monotonic())
            report = tracker.report(time.monotonic())
            if report is not None and not self._stopped.is_set():
                self._end(report)
                return


def _read(store: dist.Store, size: int) -> dict[int, Heartbeat]:
    ranks = [rank for rank in range(size) if store.check([str(rank)])]
    return {rank: Heartbeat(*json.loads(store.get(str(rank)))) for rank in ranks}


def _new_store(limit_s: float) -> dist.Store:
    """Opens another connection to the store through which the ranks met: one in use would block."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=max(1.0, limit_s / 2)),
    )
    return dist.PrefixStore(f"owl2-heartbeats-{attempt}", store)


def _end_process(report: str) -> None:
    """Prints the report and where this process waits, and ends it. The training thread may hang in a collective, where
    no exception would reach it."""
    print(f"owl2: error: {report}. Where this rank waits:", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(file=sys.stderr)
    os._exit(EXIT_CODE)
