"""Turns the fields of a request into answers, for chat completions and completions."""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NamedTuple, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from owl2.serving.engine.detokenizer import token_text
from owl2.serving.engine.engine import AnswerRequest, Delta
from owl2.serving.engine.errors import InvalidRequest, RequestError
from owl2.serving.engine.grammar import Grammar
from owl2.serving.engine.prompts import Prompt
from owl2.serving.engine.sampler import Sampling, TokenLogprobs

from .errors import ERROR_RESPONSES, error_object
from .schemas import ChoiceFormat, JsonSchemaFormat, ResponseFormat, TextFormat, _SamplingFields
from .state import ServerState

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {}},
        "description": "JSON, or with `stream` events",
    },
    **ERROR_RESPONSES,
}
"""Of the routes that answer, for the OpenAPI document."""


class Collected(NamedTuple):
    """A whole choice, put together from its deltas."""

    text: str
    logprobs: list[TokenLogprobs]
    finish_reason: str
    num_tokens: int


async def collect(deltas: Any, choices: int) -> list[Collected]:
    """Reads deltas to their end, and puts each choice together."""
    texts, reasons, tokens = [""] * choices, [""] * choices, [0] * choices
    logprobs: list[list[TokenLogprobs]] = [[] for _ in texts]
    async with aclosing(deltas):
        async for delta in deltas:
            texts[delta.index] += delta.text
            logprobs[delta.index] += delta.logprobs
            reasons[delta.index] = delta.finish_reason or ""
            tokens[delta.index] = delta.num_tokens
    return [Collected(*each) for each in zip(texts, logprobs, reasons, tokens, strict=True)]


def answer_request(
    state: ServerState,
    fields: _SamplingFields,
    prompt: Prompt,
    client: str,
    max_tokens: int | None,
    top_logprobs: int | None,
    grammar: Grammar | None = None,
) -> AnswerRequest:
    """The request to the engine.

    Raises:
        RequestError: A limit is exceeded; the error names the field.
    """
    limits = state.settings.limits
    for name, value, limit in (
        ("n", fields.n, limits.choices),
        ("stop", len(fields.stop_texts), limits.stop_texts),
        ("top_logprobs", top_logprobs, limits.top_logprobs),
        ("max_tokens", max_tokens, limits.new_tokens),
    ):
        if value is not None and limit is not None and value > limit:
            raise InvalidRequest(f"{name}: {value} is over the limit of {limit}", name)
    state.check_prompt(len(prompt))
    room = state.engine.check(prompt, max_tokens)
    if state.settings.log_prompts:
        logger.info(
            "prompt of %d tokens and %d images: %s", len(prompt), prompt.num_images, state.prompts.shown(prompt)
        )
    return AnswerRequest(
        prompt=prompt,
        sampling=_sampling(fields, state.prompts.vocab_size, top_logprobs),
        max_new_tokens=min(room, limits.new_tokens or room),
        seed=secrets.randbits(63) if fields.seed is None else fields.seed,
        stop=fields.stop_texts,
        choices=fields.n or 1,
        client=client,
        grammar=grammar,
    )


def grammar_of(state: ServerState, form: ResponseFormat | None) -> Grammar | None:
    """The grammar of an answer; None if its form is free.

    Raises:
        InvalidRequest: The form cannot be enforced, or is over a limit.
    """
    if form is None or isinstance(form, TextFormat):
        return None
    limit = state.settings.limits.form_bytes
    size = len(form.model_dump_json())
    if size > limit:
        raise InvalidRequest(f"response_format: {size} bytes are over the limit of {limit}", "response_format")
    if isinstance(form, ChoiceFormat):
        return state.grammars.of_choices(form.choice)
    return state.grammars.of_schema(
        form.json_schema.schema_ if isinstance(form, JsonSchemaFormat) else {"type": "object"}
    )


def _sampling(fields: _SamplingFields, vocab_size: int, top_logprobs: int | None) -> Sampling:
    bias: list[tuple[int, float]] = []
    for token, value in (fields.logit_bias or {}).items():
        if not (token.isascii() and token.isdigit() and int(token) < vocab_size):
            raise InvalidRequest(
                f"logit_bias: {token!r} is not one of the {vocab_size} tokens of the vocabulary", "logit_bias"
            )
        bias.append((int(token), float(value)))
    return Sampling(
        temperature=1.0 if fields.temperature is None else fields.temperature,
        top_k=max(fields.top_k or 0, 0),
        top_p=1.0 if fields.top_p is None else fields.top_p,
        frequency_penalty=fields.frequency_penalty or 0.0,
        presence_penalty=fields.presence_penalty or 0.0,
        logit_bias=tuple(bias),
        top_logprobs=top_logprobs,
    )


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def token_name(state: ServerState, token: int) -> str:
    return token_text(state.engine.tokenizer, token)


def finite(logprob: float) -> float:
    """A log-probability for JSON, which has no infinity."""
    return max(logprob, -9999.0)


def described_token(state: ServerState, token: int, logprob: float) -> dict[str, Any]:
    """A token as OpenAI describes it: its text, and its bytes unless it is only a part of a character."""
    text = token_name(state, token)
    return {
        "token": text,
        "logprob": finite(logprob),
        "bytes": None if "\ufffd" in text else list(text.encode()),
    }


async def until_disconnected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of some work, which is cancelled if the client goes away.

    Raises:
        ClientDisconnect: The client went away.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def stream(
    request: Request,
    deltas: AsyncIterator[Delta],
    chunks_of: Callable[[Delta], list[dict[str, Any]]],
    last_chunk: Callable[[], dict[str, Any] | None],
) -> StreamingResponse:
    """Server-sent events. A failure before the first token is an error like any other; a later one is an event."""
    first = await until_disconnected(request, anext(deltas))  # type: ignore[arg-type]

    async def events() -> AsyncIterator[str]:
        async with aclosing(deltas):  # type: ignore[type-var]
            try:
                for chunk in chunks_of(first):
                    yield _event(chunk)
                async for delta in deltas:
                    for chunk in chunks_of(delta):
                        yield _event(chunk)
            except RequestError as error:
                yield _event(error_object(error.status, str(error), error.param, error.code))
                return
            closing = last_chunk()
            if closing is not None:
                yield _event(closing)
            yield "data: [DONE]\n\n"

    return StreamingResponse(
        events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    )


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
