"""`/v1/completions`: texts or ids that the model continues, without the chat template."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from owl2.serving.engine.engine import AnswerRequest, Delta
from owl2.serving.engine.errors import InvalidRequest
from owl2.serving.engine.prompts import Prompt

from . import answering
from .answering import RESPONSES, answer_request, token_name, usage
from .schemas import CompletionRequest
from .state import ServerState, client_of, state_of

router = APIRouter()

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this route."""


@router.post("/v1/completions", response_model=None, responses=RESPONSES)
async def completions(body: CompletionRequest, request: Request) -> Response | dict[str, Any]:
    """Continuations of texts or token ids."""
    state = state_of(request)
    state.check_model(body.model)
    prompts = await asyncio.get_running_loop().run_in_executor(state.preparation, _prompts, state, body)
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    client = client_of(request)
    asked = [answer_request(state, body, prompt, client, max_tokens, body.logprobs) for prompt in prompts]
    completion = _Completion(state, asked)
    if body.stream:
        completion.reports_usage = body.stream_options is not None and body.stream_options.include_usage
        return await answering.stream(request, completion.deltas(), completion.chunks, completion.last_chunk)
    return await answering.until_disconnected(request, completion.complete())


def _prompts(state: ServerState, body: CompletionRequest) -> list[Prompt]:
    given: Any = body.prompt
    if isinstance(given, str) or not given or isinstance(given[0], int):
        given = [given]
    if len(given) > state.settings.limits.prompts:
        raise InvalidRequest(f"{len(given)} prompts are over the limit of {state.settings.limits.prompts}", "prompt")
    return [
        state.prompts.of_text(prompt) if isinstance(prompt, str) else state.prompts.of_ids(prompt) for prompt in given
    ]


class _Completion:
    """Collects the answers to several prompts; those of prompt i have the indices i * n to i * n + n - 1."""

    def __init__(self, state: ServerState, asked: list[AnswerRequest]) -> None:
        self.state = state
        self.asked = asked
        self.reports_usage = False
        self.tokens = [0] * (len(asked) * asked[0].choices)
        self._offsets = [0] * len(self.tokens)
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": state.model_name,
        }

    async def deltas(self) -> AsyncIterator[Delta]:
        """The deltas of all prompts, which are answered side by side."""
        merged: asyncio.Queue[tuple[int, Delta | BaseException | None]] = asyncio.Queue()
        tasks = [asyncio.create_task(self._collect(number, merged)) for number in range(len(self.asked))]
        running = len(tasks)
        try:
            while running:
                number, item = await merged.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    running -= 1
                    continue
                index = number * self.asked[0].choices + item.index
                yield Delta(index, item.text, item.num_tokens, item.logprobs, item.finish_reason)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def complete(self) -> dict[str, Any]:
        collected = await answering.collect(self.deltas(), len(self.tokens))
        self.tokens = [each.num_tokens for each in collected]
        choices = [
            {
                "index": index,
                "text": each.text,
                "logprobs": self._logprobs(index, each.logprobs),
                "finish_reason": each.finish_reason,
            }
            for index, each in enumerate(collected)
        ]
        return {**self._head, "choices": choices, "usage": self._usage()}

    def chunks(self, delta: Delta) -> list[dict[str, Any]]:
        """The chunk of a stream for a delta, unless it is empty."""
        self.tokens[delta.index] = delta.num_tokens
        if not (delta.text or delta.logprobs or delta.finish_reason):
            return []
        choice = {
            "index": delta.index,
            "text": delta.text,
            "logprobs": self._logprobs(delta.index, delta.logprobs),
            "finish_reason": delta.finish_reason,
        }
        return [self._chunk([choice])]

    def last_chunk(self) -> dict[str, Any] | None:
        return {**self._chunk([]), "usage": self._usage()} if self.reports_usage else None

    async def _collect(self, number: int, merged: "asyncio.Queue[tuple[int, Delta | BaseException | None]]") -> None:
        try:
            async with aclosing(self.state.engine.answer(self.asked[number])) as deltas:  # type: ignore[type-var]
                async for delta in deltas:
                    merged.put_nowait((number, delta))
            merged.put_nowait((number, None))
        except Exception as error:
            merged.put_nowait((number, error))

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self._head, "choices": choices}
        return {**chunk, "usage": None} if self.reports_usage else chunk

    def _usage(self) -> dict[str, int]:
        return usage(sum(len(request.prompt) for request in self.asked), sum(self.tokens))

    def _logprobs(self, index: int, tokens: Any) -> dict[str, Any] | None:
        """Log-probabilities in the old form of this route; offsets count the characters of the tokens before."""
        if self.asked[0].sampling.top_logprobs is None:
            return None
        names = [token_name(self.state, token.token) for token in tokens]
        offsets = []
        for name in names:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(name)
        return {
            "tokens": names,
            "token_logprobs": [answering.finite(token.logprob) for token in tokens],
            "top_logprobs": [
                # Of tokens that look the same, parts of characters, the likeliest counts.
                {token_name(self.state, other): answering.finite(value) for other, value in reversed(token.top)}
                for token in tokens
            ],
            "text_offset": offsets,
        }
