"""An embedded engine for the length of a test, and the tokens that it answers."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from owl2.serving.engine.admission import AdmissionLimits
from owl2.serving.engine.engine import AnswerRequest, Engine
from owl2.serving.engine.prompts import Prompt
from owl2.serving.engine.sampler import Sampling
from owl2.serving.engine.worker import WorkerOptions

TOKENS = 10
"""Of each answer."""


@asynccontextmanager
async def running(loaded, image_bytes=2**20, **options: Any):
    settings = {"max_requests": 8, "max_batch_tokens": 512, "cache_tokens": 2048, "page_tokens": 8, **options}
    engine = Engine(*loaded, WorkerOptions(**settings), AdmissionLimits(8, 64, 64, 30.0), image_bytes)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def tokens_of(engine: Engine, request: AnswerRequest) -> list[list[int]]:
    """The tokens of each answer to a request, as its log-probabilities tell them."""
    answers: list[list[int]] = [[] for _ in range(request.choices)]
    async with aclosing(engine.answer(request)) as deltas:
        async for delta in deltas:
            answers[delta.index] += [entry.token for entry in delta.logprobs]
    return answers


def greedy(prompt: Prompt, **changes: Any) -> AnswerRequest:
    return AnswerRequest(prompt, Sampling(temperature=0.0, top_logprobs=0), TOKENS, 0, **changes)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
