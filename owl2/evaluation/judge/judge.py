"""Judges: language models behind an OpenAI-compatible endpoint that grade answers (specification, 0.3 and 6, 10 to 12).

    judge = Judge("gpt-4-0613", cache="judge_cache")  # OPENAI_API_KEY, OPENAI_BASE_URL
    items = [mmvet_item(sample.id, sample.question, sample.gold, answer) for ...]
    runs = [judge.run(items, run) for run in range(MMVET_RUNS)]
    mean, deviation = mean_and_deviation([100 * fmean(run.values().values()) for run in runs])

Every reply is kept on disk before it is read, so a run that was cut off resumes where it stopped, and `replay=True`
gives the same verdicts again without network or key. Failures are counted by kind, item by item.
"""

import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

from .cache import JudgeCache
from .endpoint import Endpoint, JudgeFailure
from .request import Ask, JudgeReply, JudgeRequest

T = TypeVar("T")

UNPARSED = "unparsed"  # the kind of failure of a reply that the parser cannot read
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0  # seconds


@dataclass(frozen=True)
class JudgeItem(Generic[T]):
    """One answer to judge.

    Attributes:
        id: Name of the sample.
        asks: The questions; each but the first is asked only if the reply to the one before could not be read.
        parse: Finds the value in a reply, or `None` if it has none. Runs in several threads.
        fallback: The benchmark's value where no reply can be read.
    """

    id: str
    asks: tuple[Ask, ...]
    parse: Callable[[str], T | None]
    fallback: T


@dataclass(frozen=True)
class Verdict(Generic[T]):
    """The outcome of an item.

    Attributes:
        value: The judge's value; the fallback where its replies could not be read; `None` without an answer.
        reply: The last reply, if there was any.
        failure: `None`, "unparsed", or the kind of the failure that left the item without an answer.
        failed_attempts: Number of failed attempts by kind, including those followed by a successful one.
        served_by: The model that wrote the last reply, according to the endpoint.
    """

    id: str
    value: T | None
    reply: str | None
    failure: str | None
    detail: str
    failed_attempts: Mapping[str, int]
    served_by: str | None


@dataclass(frozen=True)
class JudgeRun(Generic[T]):
    """The verdicts of one run, in the order of the items."""

    verdicts: Sequence[Verdict[T]]

    @property
    def failures(self) -> dict[str, int]:
        """Number of items by kind of failure."""
        return _count(verdict.failure for verdict in self.verdicts)

    @property
    def failed_attempts(self) -> dict[str, int]:
        """Number of failed attempts by kind, including those followed by a successful one."""
        return _count(kind for verdict in self.verdicts for kind in Counter(verdict.failed_attempts).elements())

    @property
    def served_by(self) -> dict[str, int]:
        """Number of items by the model that wrote the reply, according to the endpoint."""
        return _count(verdict.served_by for verdict in self.verdicts)

    def values(self, allow_partial: bool = False) -> dict[str, T]:
        """The value of each item by id.

        Args:
            allow_partial: Leave out the items that got no answer.

        Raises:
            ValueError: Items got no answer.
        """
        lacking = [verdict for verdict in self.verdicts if verdict.value is None]
        if lacking and not allow_partial:
            kinds = _count(verdict.failure for verdict in lacking)
            raise ValueError(
                f"the judge has not answered for {len(lacking)} of {len(self.verdicts)} items {kinds}, such as "
                f"{lacking[0].id!r} ({lacking[0].detail}): run again, the replies received are in the cache"
            )
        return {verdict.id: verdict.value for verdict in self.verdicts if verdict.value is not None}


class JudgeCacheMiss(ValueError):
    """A replay needs a reply that is not in the cache."""


class Judge:
    """Judges items with `model`, from the cache where it has the reply.

    Args:
        model: Name of the model, as the endpoint knows it.
        cache: Directory of the replies, made when needed.
        base_url: Address of the endpoint; by default `OPENAI_BASE_URL`, or OpenAI's.
        api_key: Key; by default `OPENAI_API_KEY`.
        replay: Only read the cache; neither network nor key is needed.
        timeout: Seconds for one attempt.
        max_retries: Further attempts at a request after a timeout, a lost connection, status 408, 429 or 5xx, or a
            malformed answer. They wait 1, 2, 4, ... up to 60 seconds, less up to a half by chance, or as long as the
            endpoint asks for, again up to 60.
        concurrency: Requests at a time.
        wait: Waits a number of seconds.

    Raises:
        ValueError: No key, unless `replay`; a base URL that is not http(s); a number out of range.
    """

    def __init__(
        self,
        model: str,
        cache: str | os.PathLike[str],
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        replay: bool = False,
        timeout: float = 60.0,
        max_retries: int = 5,
        concurrency: int = 8,
        wait: Callable[[float], Any] = time.sleep,
    ) -> None:
        if not model or max_retries < 0 or concurrency < 1:
            raise ValueError(
                f"a judge needs a model, max_retries >= 0 and concurrency >= 1, got {model=}, {max_retries=}, "
                f"{concurrency=}"
            )
        self.model = model
        self._cache = JudgeCache(cache)
        self._endpoint = None if replay else Endpoint.from_environment(base_url, api_key, timeout)
        self._max_retries, self._concurrency, self._wait = max_retries, concurrency, wait
        self._locks: dict[str, Lock] = {}  # by request, so that equal ones are sent once

    def run(self, items: Sequence[JudgeItem[T]], run: int = 0) -> JudgeRun[T]:
        """Judges all items; `run` numbers independent repetitions, which share no reply.

        Raises:
            JudgeCacheMiss: A replay lacks replies. The message says how many items lack one, and names the first.
            ValueError: Two items of one id, an item with nothing to ask, a key, address or model that the endpoint
                refuses, or a damaged file in the cache.
        """
        _check(items)
        verdicts: list[Verdict[T]] = []
        missing: list[tuple[str, JudgeCacheMiss]] = []
        with ThreadPoolExecutor(self._concurrency) as pool:
            futures = [pool.submit(self._judge, item, run) for item in items]
            try:
                for item, future in zip(items, futures, strict=True):
                    try:
                        verdicts.append(future.result())
                    except JudgeCacheMiss as miss:
                        missing.append((item.id, miss))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if missing:
            raise JudgeCacheMiss(
                f"replay lacks replies for {len(missing)} of {len(items)} items, first {missing[0][0]!r}: "
                f"{missing[0][1]}. Judge once without replay"
            )
        return JudgeRun(verdicts)

    def _judge(self, item: JudgeItem[T], run: int) -> Verdict[T]:
        failed: Counter[str] = Counter()
        text, served_by = None, None
        for attempt, ask in enumerate(item.asks):
            try:
                reply = self._reply(JudgeRequest(self.model, ask, run, attempt), failed)
            except JudgeFailure as failure:
                return Verdict(item.id, None, text, failure.kind, str(failure), failed, served_by)
            text, served_by = reply.text, reply.served_by
            value = item.parse(text)
            if value is not None:
                return Verdict(item.id, value, text, None, "", failed, served_by)
            failed[UNPARSED] += 1
        return Verdict(item.id, item.fallback, text, UNPARSED, "no reply could be read", failed, served_by)

    def _reply(self, request: JudgeRequest, failed: Counter[str]) -> JudgeReply:
        with self._locks.setdefault(request.key(), Lock()):
            reply = self._cache.read(request)
            if reply is None:
                reply = self._send(request, failed)
                self._cache.write(request, reply)
            return reply

    def _send(self, request: JudgeRequest, failed: Counter[str]) -> JudgeReply:
        if self._endpoint is None:
            raise JudgeCacheMiss(
                f"{self._cache.path(request)} is missing (model {request.model!r}, run {request.run}, attempt "
                f"{request.attempt})"
            )
        for retry in range(self._max_retries + 1):
            try:
                return self._endpoint.send(request)
            except JudgeFailure as failure:
                failed[failure.kind] += 1
                if not failure.passing or retry == self._max_retries:
                    raise
                self._wait(_delay(retry, failure.retry_after))
        raise AssertionError("the last attempt returns or raises")


def mean_and_deviation(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of the scores of several runs, of the population as in MM-Vet's evaluator."""
    if not scores:
        raise ValueError("no run to take the mean of")
    return statistics.fmean(scores), statistics.pstdev(scores)


def _delay(retry: int, asked: float) -> float:
    backoff = min(_LONGEST_DELAY, _FIRST_DELAY * 2**retry) * random.uniform(0.5, 1.0)
    return min(_LONGEST_DELAY, max(backoff, asked))


def _count(names: Iterable[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(name for name in names if name is not None).items()))


def _check(items: Sequence[JudgeItem[Any]]) -> None:
    repeated = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} ids belong to several items to judge, such as {repeated[0]!r}")
    silent = [item.id for item in items if not item.asks]
    if silent:
        raise ValueError(f"{len(silent)} items have nothing to ask the judge, such as {silent[0]!r}")
