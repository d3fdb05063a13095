"""Whether a server bears a crowd for long, and mishaps.

`soak`: clients that ask one request after the other for minutes; errors are counted, and the server's memory is a
curve. `chaos`: beside clients whose answers are checked against `generate`, others hang up in the middle of their
answers and send corrupt images, and the worker of the server crashes now and then: nothing else may suffer.
"""

import argparse
import itertools
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving_requests import (
    Answer,
    Generator,
    Request,
    Server,
    ask,
    body_of,
    free_port,
    image_part,
    make_requests,
    message_parts,
    owl2_serve,
    png_of,
    started,
    text_part,
)

Settings = tuple[str, str, str, list[str]]
"""Directory, dtype, device, settings of `owl2 serve`."""

SAMPLE_SECONDS = 5.0
KNOWN_REQUESTS = 8
"""So many requests are asked again and again, and their answers checked."""
CRASHES = 3
"""In the time of a run, and never so near to each other that the worker stays down."""
CRASH_PAUSE = 31.0


def soak(generator: Generator, own: Settings, clients: int, seconds: float, images: int, words: int) -> dict[str, Any]:
    """Clients that ask one after the other, every second request one that was asked before."""
    known = _known(generator, images, words)
    with owl2_serve(*own) as server:
        outcome = _Outcome(server, generator)
        curve = outcome.run(seconds, [_asks(outcome, known, images, words, seed) for seed in range(clients)])
    half = [size for at, size in curve if at >= seconds / 2]
    first = [size for at, size in curve if seconds / 4 <= at < seconds / 2]
    growth = statistics.median(half) / statistics.median(first) - 1 if first and half else None
    report = {**outcome.report(), "memory_bytes": curve, "growth_of_the_second_half": growth}
    grown = "unknown" if growth is None else f"{growth:+.1%}"
    print(f"\n{outcome.summary()}\n  memory of the second half against the second quarter: {grown}")
    return report


def chaos(generator: Generator, own: Settings, clients: int, seconds: float, images: int, words: int) -> dict[str, Any]:
    """Good clients, and as many others that hang up, send corrupt images, or crash the worker."""
    known, port = _known(generator, images, words), free_port()
    command = [sys.executable, __file__, *own[:3], str(port), *own[3]]
    with started(command, "benchmark", port) as server:
        outcome = _Outcome(server, generator)
        good = [_asks(outcome, known, images, words, seed, checked_only=True) for seed in range(clients)]
        leaving = [_leaves(outcome, images, words, seed) for seed in range(max(1, clients // 2))]
        corrupt = [_sends_corrupt_images(outcome, words, seed) for seed in range(max(1, clients // 4))]
        curve = outcome.run(seconds, [*good, *leaving, *corrupt, _crashes(outcome, seconds)])
        outcome.is_healthy_at_the_end = server.is_healthy()
    print(f"\n{outcome.summary()}\n  healthy at the end: {outcome.is_healthy_at_the_end}")
    return {**outcome.report(), "memory_bytes": curve, "healthy_at_the_end": outcome.is_healthy_at_the_end}


class _Outcome:
    """What the clients saw, counted; their threads share it."""

    def __init__(self, server: Server, generator: Generator) -> None:
        self.server = server
        self.generator = generator
        self.counts: Counter[str] = Counter()
        self.tokens = 0
        self.is_healthy_at_the_end = True
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._began = time.monotonic()

    def run(self, seconds: float, clients: list[Callable[[], Any]]) -> list[tuple[float, int]]:
        """Lets all clients go on for so long; the memory of the server, (seconds, bytes)."""
        curve: list[tuple[float, int]] = []
        with ThreadPoolExecutor(len(clients)) as threads:
            running = [threads.submit(client) for client in clients]
            while time.monotonic() - self._began < seconds:
                self._ended.wait(min(SAMPLE_SECONDS, seconds))
                size = self.server.memory_bytes()
                if size is not None:
                    curve.append((round(time.monotonic() - self._began, 1), size))
            self._ended.set()
            for each in running:
                each.result()
        return curve

    def turns(self) -> Iterator[int]:
        """Numbers, until the run is over."""
        return itertools.takewhile(lambda _: not self._ended.is_set(), itertools.count())

    def pause(self, seconds: float) -> None:
        self._ended.wait(seconds)

    def count(self, what: str, answer: Answer | None = None) -> None:
        with self._lock:
            self.counts[what] += 1
            self.tokens += 0 if answer is None else answer.tokens

    def body(self, request: Request) -> bytes:
        return body_of(self.server, message_parts(request), self.generator.tokens, self.generator.ends)

    def report(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "tokens_answered": self.tokens, "seconds": time.monotonic() - self._began}

    def summary(self) -> str:
        return "\n".join(f"  {count:>8} {what}" for what, count in sorted(self.counts.items()))


def _known(generator: Generator, images: int, words: int) -> list[Request]:
    known = make_requests(KNOWN_REQUESTS, images, words, seed=0)
    for request in known:
        (request.expected,) = generator.answer([request])
    return known


def _asks(
    outcome: _Outcome, known: list[Request], images: int, words: int, seed: int, checked_only: bool = False
) -> Callable[[], None]:
    """A good client: its answers are whole, and right where they are known."""

    def go_on() -> None:
        draw = random.Random(seed)
        for turn in outcome.turns():
            is_known = checked_only or turn % 2 == 0
            if is_known:
                request = draw.choice(known)
            else:
                request = make_requests(1, draw.randint(0, images), words, 1_000 * seed + turn + 1)[0]
            answer = ask(outcome.server, outcome.body(request), outcome.generator.tokens)
            if answer.error:
                outcome.count(f"failed: {answer.error}")
                outcome.pause(1.0 if "worker" in answer.error else 0.1)
            elif is_known:
                outcome.count("as generate" if answer.text == request.expected else "different", answer)
            else:
                outcome.count("answered", answer)

    return go_on


def _leaves(outcome: _Outcome, images: int, words: int, seed: int) -> Callable[[], None]:
    """A client that hangs up in the middle of its answers."""

    def go_on() -> None:
        draw = random.Random(f"leaves {seed}")
        for turn in outcome.turns():
            (request,) = make_requests(1, images, words, 1_000_000 + 1_000 * seed + turn)
            pieces = draw.randint(1, max(1, outcome.generator.tokens // 2))
            answer = ask(outcome.server, outcome.body(request), outcome.generator.tokens, leave_after=pieces)
            what = {"left": "hung up", "": "answered"}.get(answer.error, f"failed: {answer.error}")
            outcome.count(what, answer)
            outcome.pause(draw.random() / 2)

    return go_on


def _sends_corrupt_images(outcome: _Outcome, words: int, seed: int) -> Callable[[], None]:
    """A client whose images are cut off or scrambled: each is to be refused with status 400."""

    def go_on() -> None:
        draw = random.Random(f"corrupt {seed}")
        for turn in outcome.turns():
            (request,) = make_requests(1, 1, words, 2_000_000 + 1_000 * seed + turn)
            contents = png_of(request.images[0])
            damaged = contents[: draw.randint(9, len(contents) // 2)] if turn % 2 else contents[:40] + b"x" * 100
            parts = [image_part(damaged), text_part(request.text)]
            answer = ask(outcome.server, body_of(outcome.server, parts, 4, outcome.generator.ends), 4)
            is_refused = answer.error.startswith("400")
            outcome.count("corrupt image refused" if is_refused else f"corrupt image: {answer.error or 'answered'}")
            outcome.pause(draw.random() / 2)

    return go_on


def _crashes(outcome: _Outcome, seconds: float) -> Callable[[], None]:
    """Lets the worker crash `CRASHES` times, evenly over the run and not at its end."""
    pause = max(CRASH_PAUSE, seconds / (CRASHES + 1))

    def go_on() -> None:
        assert outcome.server.process is not None
        outcome.pause(min(pause, seconds / 2))
        for turn in outcome.turns():
            if turn == CRASHES:
                return
            outcome.server.process.send_signal(signal.SIGUSR1)
            outcome.count("crash of the worker")
            outcome.pause(pause)

    return go_on


def serve_and_crash(directory: str, dtype: str, device: str, port: int, overrides: list[str]) -> None:
    """`owl2 serve` whose worker crashes in its next step at SIGUSR1."""
    from owl2.checkpoints.loading import load_for_chat
    from owl2.serving.openai_api.app import create_app
    from owl2.serving.server import GracefulServer
    from owl2.serving.settings import load_settings

    settings = load_settings(None, [f"port={port}", *overrides])
    app = create_app(*load_for_chat(directory, dtype, device), settings, "benchmark")
    sampler = app.state.server.engine.sampler
    prepare, is_to_crash = sampler.prepare_tensor_args, threading.Event()

    def prepare_or_crash(requests: Any) -> Any:
        if is_to_crash.is_set():
            is_to_crash.clear()
            raise RuntimeError("chaos")
        return prepare(requests)

    sampler.prepare_tensor_args = prepare_or_crash
    signal.signal(signal.SIGUSR1, lambda number, frame: is_to_crash.set())
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # uvicorn passes it on at the end
    GracefulServer(app, settings).run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="the server of --mode chaos")
    for name in ("model", "dtype", "device", "port"):
        parser.add_argument(name)
    parser.add_argument("settings", nargs="*")
    given = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    serve_and_crash(given.model, given.dtype, given.device, int(given.port), given.settings)
