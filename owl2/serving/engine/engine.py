"""Answers to prompts: from admission over the image table and the worker to text.

Everything here runs in one event loop; the worker and the vision encoder have threads of their own.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor

from .admission import Admission, AdmissionLimits
from .detokenizer import Detokenizer
from .errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PromptTooLong,
    RequestError,
    ShuttingDown,
    WorkerCrashed,
)
from .grammar import PARAM, Grammar
from .image_table import ImageTable, ImageTableFull
from .paged_model import PagedOwl2
from .prompts import Prompt
from .sampler import Draws, GumbelSampler, Sampling, TokenLogprobs, seed_of_choice
from .worker import RequestProgress, Worker, WorkerOptions

logger = logging.getLogger(__name__)

_CRASHES, _CRASH_SECONDS = 3, 60.0
"""After this many crashes in this time the worker stays down: a restart does not help."""


@dataclass(frozen=True)
class AnswerRequest:
    """A prompt and how it is to be answered.

    Attributes:
        stop: Texts that end an answer.
        choices: Number of answers.
        client: The client, for fairness.
        grammar: The form of the answers.
    """

    prompt: Prompt
    sampling: Sampling
    max_new_tokens: int
    seed: int
    stop: tuple[str, ...] = ()
    choices: int = 1
    client: str = ""
    grammar: Grammar | None = None


@dataclass(frozen=True)
class Delta:
    """A piece that was added to an answer.

    Attributes:
        index: Index of the answer.
        num_tokens: Number of tokens of the answer so far.
        finish_reason: "stop" or "length" in the last one.
    """

    index: int
    text: str
    num_tokens: int
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: str | None = None


@dataclass
class _Answer:
    """One answer in flight."""

    request_id: str
    index: int
    detokenizer: Detokenizer
    draws: Draws
    deltas: "asyncio.Queue[Delta | Exception]"
    seen: int = 0
    last_token: float = field(default_factory=time.perf_counter)


class Engine:
    """Serves one model.

    Args:
        image_bytes: Memory of the image table.
        max_seconds: Longest time of an answer, from its place in the engine on.
        observe: Called with measurements by name: "time_to_first_token_seconds", "inter_token_seconds".
    """

    def __init__(
        self,
        model: Owl2ForConditionalGeneration,
        processor: Owl2Processor,
        worker: WorkerOptions,
        admission: AdmissionLimits,
        image_bytes: int = 2**28,
        max_seconds: float = 600.0,
        observe: Callable[[str, float], None] = lambda name, value: None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.admission = Admission(admission)
        self.max_seconds = max_seconds
        self.tokens_read = self.tokens_written = self.crashes = 0
        config = model.config
        if model.config._attn_implementation == "eager":
            model.set_attn_implementation("sdpa")
        self.images = self._image_table(image_bytes)
        self.sampler = GumbelSampler()
        self.worker = Worker(
            PagedOwl2(model, self.images, self.sampler), worker, self._end_tokens(), self._on_progress, self._on_crash
        )
        self.context = config.text_config.max_position_embeddings
        self.tokenizer = deepcopy(processor.tokenizer)  # the other one is changed by whoever tokenizes
        self._threads = ThreadPoolExecutor(1, "owl2-vision")
        self._observe = observe
        self._answers: dict[str, _Answer] = {}
        self._numbers = itertools.count()
        self._crash_times: deque[float] = deque(maxlen=_CRASHES)
        self._restart: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None

    @property
    def is_healthy(self) -> bool:
        return self.admission.is_open and self.worker.is_alive

    @property
    def in_flight(self) -> int:
        return len(self._answers)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        await asyncio.to_thread(self.worker.start)
        self.admission.cache_tokens = self.worker.cache_tokens
        self.context = min(self.context, self.worker.cache_tokens)

    async def drain(self, seconds: float) -> None:
        """Accepts no more requests, and gives those in flight some time to end; the rest then fails."""
        self.admission.close()
        deadline = time.monotonic() + seconds
        while self.admission.running and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        self._fail_all(ShuttingDown("the server is shutting down"))

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Drains, and ends the worker."""
        await self.drain(drain_seconds)
        if self._restart is not None:
            await self._restart
        await asyncio.to_thread(self.worker.stop)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def check(self, prompt: Prompt, max_new_tokens: int | None) -> int:
        """The number of tokens that an answer may take: the requested number, or what the context leaves.

        Raises:
            PromptTooLong: Prompt and answer do not fit.
        """
        room = self.context - len(prompt)
        if room < 1 or (max_new_tokens or 0) > room:
            wanted = f" and max_tokens={max_new_tokens} are asked for" if max_new_tokens else ""
            raise PromptTooLong(
                f"the prompt takes {len(prompt)} tokens{wanted}, but the context holds {self.context} with the answer",
                "messages" if room < 1 else "max_tokens",
            )
        return max_new_tokens or room

    async def answer(self, request: AnswerRequest) -> AsyncIterator[Delta]:
        """The answers to a request as they are written. A caller that stops iterating frees what they hold.

        Raises:
            RequestError: See `engine.errors`.
        """
        page = self.worker.options.page_tokens
        tokens = -(-(len(request.prompt) + request.max_new_tokens) // page) * page * request.choices
        async with self.admission.places(request.client, request.choices, tokens):
            deadline = asyncio.get_running_loop().time() + self.max_seconds
            ids, slots = await self._virtual_ids(request.prompt)
            answers: list[_Answer] = []
            try:
                deltas: asyncio.Queue[Delta | Exception] = asyncio.Queue()
                answers += [self._submit(request, ids, index, deltas) for index in range(request.choices)]
                self.tokens_read += len(ids)
                unfinished = len(answers)
                while unfinished:
                    delta = await self._next(deltas, deadline)
                    unfinished -= delta.finish_reason is not None
                    yield delta
            finally:
                for answer in answers:
                    self._forget(answer)
                self.images.release(slots)

    async def run_in_vision_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Runs work that needs the model beside the worker, one call after the other.

        Raises:
            ShuttingDown: The engine ended before the call.
        """
        work = asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        return await self._unless_ended(work)

    async def _unless_ended(self, work: "asyncio.Future[Any]") -> Any:
        assert self._ended is not None
        await asyncio.wait({work, self._ended}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ShuttingDown("the server is shutting down")
        return work.result()

    def _submit(
        self, request: AnswerRequest, ids: list[int], index: int, deltas: "asyncio.Queue[Delta | Exception]"
    ) -> _Answer:
        request_id = f"answer-{next(self._numbers)}"
        guide = None if request.grammar is None else request.grammar.guide()
        draws = Draws(request.sampling, seed_of_choice(request.seed, index), len(ids), guide)
        answer = _Answer(request_id, index, Detokenizer(self.tokenizer, request.stop), draws, deltas)
        self._answers[request_id] = answer
        self.sampler.draws[request_id] = draws
        if not self.worker.submit(request_id, ids, request.max_new_tokens):
            self._forget(answer)
            raise WorkerCrashed("the worker is being restarted", retry_after=1)
        return answer

    def _forget(self, answer: _Answer) -> None:
        self.sampler.draws.pop(answer.request_id, None)
        if self._answers.pop(answer.request_id, None) is not None:
            self.worker.cancel(answer.request_id)

    async def _next(self, deltas: "asyncio.Queue[Delta | Exception]", deadline: float) -> Delta:
        try:
            async with asyncio.timeout_at(deadline):
                item = await deltas.get()
        except TimeoutError:
            raise DeadlineExceeded(f"the answer took longer than {self.max_seconds:g} s") from None
        if isinstance(item, Exception):
            raise item
        return item

    async def _virtual_ids(self, prompt: Prompt) -> tuple[list[int], list[int]]:
        """Ids of a prompt with those of the image table, and the slots to be released."""
        if prompt.pixel_values is None:
            return prompt.input_ids, []
        loop = asyncio.get_running_loop()
        found = loop.run_in_executor(self._threads, self.images.acquire, prompt.pixel_values, self._encode)
        try:
            images = await self._unless_ended(found)
        except ImageTableFull as error:
            raise Overloaded(str(error), retry_after=1) from error
        except (asyncio.CancelledError, ShuttingDown):
            found.add_done_callback(self._release_when_acquired)
            raise
        rows = iter([token for _, ids in images for token in ids])
        pairs = zip(prompt.input_ids, prompt.is_vision, strict=True)
        return [next(rows) if visual else token for token, visual in pairs], [slot for slot, _ in images]

    def _release_when_acquired(self, found: "asyncio.Future[Any]") -> None:
        if not found.cancelled() and found.exception() is None:
            self.images.release([slot for slot, _ in found.result()])

    @torch.inference_mode()
    def _encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Visual tokens [N, Q + 1, D], in the thread of the vision encoder."""
        device, dtype = self.model.device, self.model.dtype
        visual_tokens = self.model.model.encode_images(pixel_values.to(device, dtype)).image_hidden_states
        assert visual_tokens is not None
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the worker reads the table from another stream
        return visual_tokens

    def _on_progress(self, progress: RequestProgress) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._progress, progress)

    def _progress(self, progress: RequestProgress) -> None:
        answer = self._answers.get(progress.request_id)
        if answer is None:  # it was cancelled
            return
        if progress.error is not None:
            self._fail(answer, _crash_error(progress.error))
            return
        guide = answer.draws.guide
        if guide is not None and guide.error is not None:
            self._forget(answer)
            answer.deltas.put_nowait(InvalidRequest(f"{PARAM}: the answer left its form: {guide.error}", PARAM))
            return
        tokens = progress.tokens[answer.seen :]
        self._measure(answer, len(tokens))
        logprobs = tuple(answer.draws.logprobs[answer.seen : len(progress.tokens)])
        answer.seen = len(progress.tokens)
        ended = bool(progress.tokens) and progress.tokens[-1] in self.worker.end_tokens
        text = answer.detokenizer.add(tokens, is_last=progress.is_finished)
        reason = None
        if answer.detokenizer.stopped or (progress.is_finished and ended):
            reason = "stop"
        elif progress.is_finished:
            reason = "length"
        if progress.is_finished:
            self._answers.pop(answer.request_id, None)
        if reason is not None:
            self._forget(answer)
        answer.deltas.put_nowait(Delta(answer.index, text, answer.seen, logprobs, reason))

    def _measure(self, answer: _Answer, count: int) -> None:
        now = time.perf_counter()
        name = "inter_token_seconds" if answer.seen else "time_to_first_token_seconds"
        for _ in range(count):
            self._observe(name, (now - answer.last_token) / count)
        answer.last_token = now
        self.tokens_written += count

    def _on_crash(self, message: str) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._crashed, message)

    def _crashed(self, message: str) -> None:
        """Fails what was in flight and starts the worker again."""
        self.crashes += 1
        self._fail_all(_crash_error(message))
        self._crash_times.append(time.monotonic())
        if not self.admission.is_open:
            return
        if len(self._crash_times) == _CRASHES and self._crash_times[-1] - self._crash_times[0] < _CRASH_SECONDS:
            logger.error("the worker crashed %d times within %g s and stays down", _CRASHES, _CRASH_SECONDS)
            return
        logger.error("the worker crashed and is started again: %s", message)
        self._restart = asyncio.create_task(asyncio.to_thread(self._restart_worker))

    def _restart_worker(self) -> None:
        self.worker.stop()
        self.worker.start()

    def _fail_all(self, error: RequestError) -> None:
        for answer in list(self._answers.values()):
            self._fail(answer, error)

    def _fail(self, answer: _Answer, error: RequestError) -> None:
        self._answers.pop(answer.request_id, None)
        self.sampler.draws.pop(answer.request_id, None)
        answer.deltas.put_nowait(error)

    def _end_tokens(self) -> list[int]:
        end = self.model.generation_config.eos_token_id
        if end is None:
            end = self.processor.tokenizer.eos_token_id
        return list(end) if isinstance(end, list | tuple) else [end]

    def _image_table(self, image_bytes: int) -> ImageTable:
        config = self.model.config
        hidden, rows = config.text_config.hidden_size, config.tokens_per_image
        assert config.image_token_id is not None
        capacity = image_bytes // (rows * hidden * self.model.dtype.itemsize)
        if capacity < 1:
            raise ValueError(f"{image_bytes} bytes hold no image of {rows} x {hidden} values")
        first_id = max(config.text_config.vocab_size, config.image_token_id + 1, len(self.processor.tokenizer))
        return ImageTable(rows, hidden, capacity, first_id, self.model.dtype, self.model.device)


def _crash_error(message: str) -> WorkerCrashed:
    return WorkerCrashed(f"the worker failed during this answer: {message}", retry_after=1)
