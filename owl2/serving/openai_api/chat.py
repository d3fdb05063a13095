"""`/v1/chat/completions`."""

import asyncio
import time
import uuid
from typing import Any

from fastapi import APIRouter, Request, Response

from owl2.serving.engine.engine import AnswerRequest, Delta

from . import answering, conversation
from .answering import RESPONSES, answer_request, described_token, grammar_of, usage
from .schemas import ChatCompletionRequest
from .state import ServerState, client_of, state_of

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None, responses=RESPONSES)
async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response | dict[str, Any]:
    """The next turn of a conversation, with images in its messages."""
    state = state_of(request)
    state.check_model(body.model)
    prompt = await conversation.prompt_of_messages(state, body.messages)
    top_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    loop = asyncio.get_running_loop()
    grammar = await loop.run_in_executor(state.preparation, grammar_of, state, body.response_format)
    asked = answer_request(state, body, prompt, client_of(request), max_tokens, top_logprobs, grammar)
    reply = _Reply(state, asked)
    deltas = state.engine.answer(asked)
    if body.stream:
        reply.reports_usage = body.stream_options is not None and body.stream_options.include_usage
        return await answering.stream(request, deltas, reply.chunks, reply.last_chunk)
    return await answering.until_disconnected(request, reply.complete(deltas))


class _Reply:
    """Collects the answers of one request in OpenAI's form."""

    def __init__(self, state: ServerState, asked: AnswerRequest) -> None:
        self.state = state
        self.asked = asked
        self.reports_usage = False
        self.tokens = [0] * asked.choices
        self._begun: set[int] = set()
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": state.model_name,
        }

    async def complete(self, deltas: Any) -> dict[str, Any]:
        collected = await answering.collect(deltas, self.asked.choices)
        self.tokens = [each.num_tokens for each in collected]
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": each.text, "refusal": None},
                "logprobs": self._logprobs(each.logprobs),
                "finish_reason": each.finish_reason,
            }
            for index, each in enumerate(collected)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self._usage()}

    def chunks(self, delta: Delta) -> list[dict[str, Any]]:
        """The chunks of a stream for a delta."""
        self.tokens[delta.index] = delta.num_tokens
        contents: list[tuple[dict[str, Any], dict[str, Any] | None, str | None]] = []
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            contents.append(({"role": "assistant", "content": ""}, None, None))
        if delta.text or delta.logprobs:
            contents.append(({"content": delta.text}, self._logprobs(delta.logprobs), None))
        if delta.finish_reason is not None:
            contents.append(({}, None, delta.finish_reason))
        return [
            self._chunk([{"index": delta.index, "delta": content, "logprobs": logprobs, "finish_reason": reason}])
            for content, logprobs, reason in contents
        ]

    def last_chunk(self) -> dict[str, Any] | None:
        return {**self._chunk([]), "usage": self._usage()} if self.reports_usage else None

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        return {**chunk, "usage": None} if self.reports_usage else chunk

    def _usage(self) -> dict[str, int]:
        return usage(len(self.asked.prompt), sum(self.tokens))

    def _logprobs(self, tokens: Any) -> dict[str, Any] | None:
        if self.asked.sampling.top_logprobs is None:
            return None
        content = [
            {
                **described_token(self.state, token.token, token.logprob),
                "top_logprobs": [described_token(self.state, other, value) for other, value in token.top],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}
