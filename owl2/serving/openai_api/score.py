"""`/v1/score`: how likely given continuations are, from one reading of the prompt."""

import asyncio
import math
from typing import Any

import torch
from fastapi import APIRouter, Request

from owl2.evaluation.inference.likelihood import Choices, LikelihoodScorer, tokenize_choices
from owl2.serving.engine.errors import InvalidRequest, PromptTooLong
from owl2.serving.engine.prompts import Prompt

from . import answering, conversation
from .answering import usage
from .errors import ERROR_RESPONSES
from .schemas import ScoreRequest
from .state import ServerState, client_of, state_of

router = APIRouter()


@router.post("/v1/score", responses=ERROR_RESPONSES)
async def score(body: ScoreRequest, request: Request) -> dict[str, Any]:
    """Log-probabilities of continuations such as yes and no, and their probabilities among each other."""
    state = state_of(request)
    state.check_model(body.model)
    limit = state.settings.limits.prompts
    if len(body.continuations) > limit:
        raise InvalidRequest(f"{len(body.continuations)} continuations are over the limit of {limit}", "continuations")
    prompt = await conversation.prompt_of_messages(state, body.messages)
    state.check_prompt(len(prompt))
    loop = asyncio.get_running_loop()
    choices = await loop.run_in_executor(state.preparation, _choices, state, prompt, body.continuations)
    async with state.engine.admission.places(client_of(request)):
        work = state.engine.run_in_vision_thread(_rank, state, choices)
        values = await answering.until_disconnected(request, work)
    total = math.log(math.fsum(math.exp(value - max(values)) for value in values)) + max(values)
    data = [
        {
            "index": index,
            "continuation": text,
            "num_tokens": len(choices.continuations[index]),
            "logprob": answering.finite(values[index]),
            "probability": math.exp(values[index] - total),
        }
        for index, text in enumerate(body.continuations)
    ]
    return {"object": "list", "model": state.model_name, "data": data, "usage": usage(len(prompt), 0)}


def _choices(state: ServerState, prompt: Prompt, continuations: list[str]) -> Choices:
    texts = [state.prompts.protected(text, "continuations") for text in continuations]
    try:
        choices = tokenize_choices(state.prompts.processor, prompt.text, texts, prompt.pixel_values)
    except ValueError as error:
        raise InvalidRequest(str(error), "messages") from error
    longest = len(choices.ids) + max(len(tokens) for tokens in choices.continuations)
    if longest > state.engine.context:
        raise PromptTooLong(
            f"prompt and continuation take {longest} tokens, but the context holds {state.engine.context}", "messages"
        )
    return choices


@torch.inference_mode()
def _rank(state: ServerState, choices: Choices) -> list[float]:
    scorer = LikelihoodScorer(state.engine.model, state.prompts.processor.tokenizer.pad_token_id, shares_prefixes=False)
    (ranking,) = scorer.rank([choices])
    return list(ranking.log_probabilities)
