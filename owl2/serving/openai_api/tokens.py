"""`/tokenize` and `/detokenize`."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from . import conversation
from .errors import ERROR_RESPONSES
from .schemas import DetokenizeRequest, TokenizeRequest
from .state import state_of

router = APIRouter()


@router.post("/tokenize", responses=ERROR_RESPONSES)
async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
    """The tokens of a text or of a conversation with its images."""
    state = state_of(request)
    state.check_model(body.model)
    if body.messages is not None:
        prompt = await conversation.prompt_of_messages(state, body.messages)
    else:
        text = body.prompt or ""
        prompt = await asyncio.get_running_loop().run_in_executor(state.preparation, state.prompts.of_text, text)
    return {"tokens": prompt.input_ids, "count": len(prompt), "max_model_len": state.engine.context}


@router.post("/detokenize", responses=ERROR_RESPONSES)
async def detokenize(body: DetokenizeRequest, request: Request) -> dict[str, str]:
    """The text of tokens."""
    state = state_of(request)
    state.check_model(body.model)
    prompt = state.prompts.of_ids(body.tokens, "tokens")
    return {"prompt": state.engine.tokenizer.decode(prompt.input_ids)}
