"""Admission to the engine: never more than it takes, clients in turns, and no wait beyond the queue's limit."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from .errors import DeadlineExceeded, InvalidRequest, Overloaded, ShuttingDown


@dataclass(frozen=True)
class AdmissionLimits:
    """Limits of the engine and of its queue.

    Attributes:
        running: Places in the engine, one for each answer that is being written.
        queued: Requests that wait, of all clients and of one.
        queue_seconds: The longest wait.
        rate: Requests a minute and client, 0 for no limit.
    """

    running: int
    queued: int
    queued_per_client: int
    queue_seconds: float
    rate: float = 0.0


@dataclass(eq=False)
class _Waiting:
    count: int
    tokens: int
    place: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Admission:
    """Places for answers, and tokens of the cache. Waiting clients take turns, whatever the number of requests of each.

    Attributes:
        cache_tokens: Tokens of the cache. An admitted request holds all that its answer may need, so that all of them
            fit.
    """

    def __init__(self, limits: AdmissionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.cache_tokens = 0
        self.running = self.reserved = 0
        self.is_open = True
        self._clock = clock
        self._queues: OrderedDict[str, deque[_Waiting]] = OrderedDict()  # the next client first
        self._rates: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, when

    @property
    def queued(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    @asynccontextmanager
    async def places(self, client: str, count: int = 1, tokens: int = 0) -> AsyncIterator[None]:
        """Holds `count` places and `tokens` of the cache for a client.

        Raises:
            InvalidRequest: There will never be as many.
            Overloaded: Too many requests wait, or this client sends them too fast.
            DeadlineExceeded: No place became free in time.
            ShuttingDown: The engine accepts no more requests.
        """
        if not self.is_open:
            raise ShuttingDown("the server is shutting down", retry_after=5)
        if count > self.limits.running or tokens > self.cache_tokens:
            raise InvalidRequest(
                f"{count} answers with {tokens} tokens together are more than the engine takes, {self.limits.running} "
                f"with {self.cache_tokens}: ask for fewer or shorter answers",
                "n",
            )
        self._check_rate(client)
        wanted = _Waiting(count, tokens)
        await self._wait(client, wanted)
        try:
            yield
        finally:
            self._leave(wanted)
            self._admit()

    def close(self) -> None:
        """Refuses all requests that arrive or wait from now on."""
        self.is_open = False
        for queue in self._queues.values():
            for waiting in queue:
                if not waiting.place.done():
                    waiting.place.set_exception(ShuttingDown("the server is shutting down", retry_after=5))
        self._queues.clear()

    async def _wait(self, client: str, wanted: "_Waiting") -> None:
        if not self._queues and self._fits(wanted):
            self._enter(wanted)
            return
        queue = self._queues.get(client, deque())
        if self.queued >= self.limits.queued or len(queue) >= self.limits.queued_per_client:
            whose = "of yours " if len(queue) >= self.limits.queued_per_client else ""
            raise Overloaded(
                f"{len(queue) if whose else self.queued} requests {whose}are waiting already", retry_after=1
            )
        self._queues.setdefault(client, queue).append(wanted)
        self._admit()
        try:
            async with asyncio.timeout(self.limits.queue_seconds):
                await asyncio.shield(wanted.place)
        except TimeoutError:
            self._give_up(client, wanted)
            raise DeadlineExceeded(
                f"no place became free within {self.limits.queue_seconds:g} s", retry_after=self.limits.queue_seconds
            ) from None
        except asyncio.CancelledError:
            self._give_up(client, wanted)
            raise

    def _fits(self, wanted: "_Waiting") -> bool:
        has_place = self.running + wanted.count <= self.limits.running
        return has_place and self.reserved + wanted.tokens <= self.cache_tokens

    def _enter(self, wanted: "_Waiting") -> None:
        self.running += wanted.count
        self.reserved += wanted.tokens

    def _leave(self, wanted: "_Waiting") -> None:
        self.running -= wanted.count
        self.reserved -= wanted.tokens

    def _give_up(self, client: str, wanted: "_Waiting") -> None:
        place = wanted.place
        if place.done() and not place.cancelled() and place.exception() is None:  # it was admitted at the last moment
            self._leave(wanted)
        else:
            place.cancel()
            queue = self._queues.get(client, deque())
            queue = deque(waiting for waiting in queue if waiting is not wanted)
            if queue:
                self._queues[client] = queue
            else:
                self._queues.pop(client, None)
        self._admit()

    def _admit(self) -> None:
        """Fills free places, one request of each waiting client after the other."""
        while self._queues:
            client, queue = next(iter(self._queues.items()))
            if not self._fits(queue[0]):
                return  # who needs much is not overtaken for ever by those who need little
            wanted = queue.popleft()
            del self._queues[client]
            if queue:
                self._queues[client] = queue  # to the end
            self._enter(wanted)
            wanted.place.set_result(None)

    def _check_rate(self, client: str) -> None:
        """A bucket of one minute's requests for each client, refilled evenly."""
        if not self.limits.rate:
            return
        now = self._clock()
        left, then = self._rates.pop(client, (self.limits.rate, now))
        left = min(self.limits.rate, left + (now - then) * self.limits.rate / 60)
        self._rates[client] = (left - 1 if left >= 1 else left, now)
        self._forget_idle_clients(now)
        if left < 1:
            wait = (1 - left) * 60 / self.limits.rate
            raise Overloaded(f"more than {self.limits.rate:g} requests a minute", retry_after=wait)

    def _forget_idle_clients(self, now: float) -> None:
        """Forgets clients that have sent nothing for a minute, whose buckets are full again."""
        while self._rates:
            client, (_, then) = next(iter(self._rates.items()))
            if now - then < 60:
                return
            del self._rates[client]
