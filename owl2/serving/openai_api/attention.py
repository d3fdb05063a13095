"""`/attention`: where a word of an answer looked, from one more reading of the conversation, and the effect of hiding
it. The functions are those of `owl2 attention`.

Both run on the model beside the worker, in the thread that encodes images: answers in flight continue.
Shapes: L layers, R tokens of the word, T tokens in front of its last one, V visual tokens among them.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from fastapi import APIRouter, Request

from owl2.analysis.attention.occlusion import occlusion_losses
from owl2.analysis.attention.on_image import Through, on_patches, patches_read
from owl2.analysis.attention.recording import decoder_attention
from owl2.analysis.attention.shares import minus_average, modality_shares
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.serving.engine.errors import InvalidRequest, PromptTooLong
from owl2.serving.engine.prompts import Prompt

from . import answering, conversation
from .errors import ERROR_RESPONSES
from .schemas import AttentionRequest, OcclusionRequest, WordRequest
from .state import ServerState, client_of, state_of

router = APIRouter()

_COPIES_AT_A_TIME = 4
"""The number of copies in a batch; images of other requests are encoded between batches."""


class _Word(NamedTuple):
    """A word of an answer after its prompt, both in tokens.

    Attributes:
        before: Tokens of prompt and answer in front of the word.
        tokens: Tokens of the word.
    """

    prompt: Prompt
    before: list[int]
    tokens: list[int]

    def inputs(self, model: Owl2ForConditionalGeneration, length: int) -> dict[str, torch.Tensor]:
        """The first tokens as a batch of one."""
        ids = [*self.before, *self.tokens][:length]
        types = [int(visual) for visual in self.prompt.is_vision] + [0] * (length - len(self.prompt))
        given = {
            "input_ids": torch.tensor([ids], device=model.device),
            "attention_mask": torch.ones(1, length, dtype=torch.long, device=model.device),
            "mm_token_type_ids": torch.tensor([types], device=model.device),
        }
        if self.prompt.pixel_values is not None:
            given["pixel_values"] = self.prompt.pixel_values.to(model.device, model.dtype)
        return given


@router.post("/attention", responses=ERROR_RESPONSES)
async def attention(body: AttentionRequest, request: Request) -> dict[str, Any]:
    """Attention of a word of the answer: maps over the images, shares of image and text by layer."""
    state = state_of(request)
    word = await _word(state, body)
    config = state.engine.model.config.text_config
    layers = _chosen(body.layers, config.num_hidden_layers, "layers")
    heads = _chosen(body.heads, config.num_attention_heads, "heads")
    async with state.engine.admission.places(client_of(request)):
        work = state.engine.run_in_vision_thread(
            _look, state.engine.model, word, layers, heads, body.through, body.minus_average
        )
        found = await answering.until_disconnected(request, work)
    return {
        "object": "attention",
        "model": state.model_name,
        "tokens": _names(state, word),
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "averaged": _what_was_averaged(body, layers, heads, len(word.tokens), state.engine.model.config.connector),
        "aspect": getattr(state.prompts.processor.image_processor, "aspect", "resize"),
        **found,
    }


@router.post("/attention/occlusion", responses=ERROR_RESPONSES)
async def occlusion(body: OcclusionRequest, request: Request) -> dict[str, Any]:
    """The log-probability that a word's first token loses where a part of an image is hidden."""
    state = state_of(request)
    limit = state.settings.limits.occlusion_groups
    if body.groups > limit:
        raise InvalidRequest(f"groups: {body.groups} is over the limit of {limit}", "groups")
    word = await _word(state, body)
    if body.image >= word.prompt.num_images:
        raise InvalidRequest(f"there is no image {body.image}: the messages have {word.prompt.num_images}", "image")
    async with state.engine.admission.places(client_of(request)):
        found = await answering.until_disconnected(request, _occlude(state, word, body.image, body.groups))
    return {
        "object": "attention.occlusion",
        "model": state.model_name,
        "token": _names(state, word)[0],
        "image": body.image,
        "map": found.tolist(),
    }


async def _word(state: ServerState, body: WordRequest) -> _Word:
    """The word that a request asks about, after its prompt.

    Raises:
        InvalidRequest: The messages are refused, a text cannot be tokenized, or there are too many tokens.
    """
    state.check_model(body.model)
    prompt = await conversation.prompt_of_messages(state, body.messages)
    state.check_prompt(len(prompt))
    loop = asyncio.get_running_loop()
    tokens, count = await loop.run_in_executor(state.preparation, _tokens, state, prompt, body.before, body.word)
    limit = state.settings.limits.attention_tokens
    if count > limit:
        raise InvalidRequest(f"the word takes {count} tokens, over the limit of {limit}", "word")
    if len(prompt) + len(tokens) > state.engine.context:
        raise PromptTooLong(
            f"prompt and answer take {len(prompt) + len(tokens)} tokens, but the context holds {state.engine.context}",
            "messages",
        )
    return _Word(prompt, prompt.input_ids + tokens[: len(tokens) - count], tokens[len(tokens) - count :])


def _tokens(state: ServerState, prompt: Prompt, before: str, word: str) -> tuple[list[int], int]:
    """The tokens of an answer up to the end of a word, and the number of those of the word.

    An answer is tokenized as the chat templates show it to a model: behind the end of the prompt, and behind a space
    where the prompt does not end with one.
    """
    for name, text in (("before", before), ("word", word)):
        if text:
            state.prompts.of_text(text, name)  # refuses what cannot be tokenized
    if not word.strip():
        raise InvalidRequest("the word is empty", "word")
    end = prompt.text[-1:]
    space = "" if end.isspace() else " "

    def tokenize(text: str) -> list[int]:
        tokenizer = state.prompts.processor.tokenizer
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]  # all of it is text

    opening = tokenize(end)
    answer = tokenize(end + space + (before + word).lstrip())[len(opening) :]
    known = tokenize(end + space + before.strip())[len(opening) :] if before.strip() else []
    shared = next((index for index, (one, other) in enumerate(zip(answer, known, strict=False)) if one != other), None)
    start = min(len(known), len(answer)) if shared is None else shared
    start = min(start, len(answer) - 1)
    return answer, len(answer) - start


def _chosen(wanted: Sequence[int] | None, count: int, what: str) -> list[int]:
    if wanted is None:
        return list(range(count))
    for index in wanted:
        if not 0 <= index < count:
            raise InvalidRequest(f"{what}: there is no {index}: the decoder has {count}, from 0 to {count - 1}", what)
    return sorted(set(wanted))


@torch.inference_mode()
def _look(
    model: Owl2ForConditionalGeneration,
    word: _Word,
    layers: list[int],
    heads: list[int],
    through: Through,
    subtracts_average: bool,
) -> dict[str, Any]:
    first, length = len(word.before), len(word.before) + len(word.tokens) - 1
    inputs = word.inputs(model, length)
    recorded = decoder_attention(model, inputs, range(first - 1, length), heads=heads)
    is_vision = inputs["mm_token_type_ids"].cpu() != 0  # [1, T]
    row = recorded.weights[layers, 0].mean((0, 1))  # [T]
    shown = row
    if subtracts_average:
        prompt = word.inputs(model, first)
        average = decoder_attention(model, prompt, range(1, len(word.prompt)), layers, heads, mean=True)
        mean = average.weights[:, 0, 0].mean(0)
        shown = minus_average(row, torch.nn.functional.pad(mean, (0, length - first)))
    logprobs = recorded.outputs.logits[0].float().log_softmax(-1).cpu()  # [R, vocabulary]
    return {
        "logprobs": [answering.finite(float(line[token])) for line, token in zip(logprobs, word.tokens, strict=True)],
        "images": _maps(model, inputs.get("pixel_values"), row[is_vision[0]], shown[is_vision[0]], through),
        "shares": modality_shares(recorded, is_vision).to_dict(),
    }


def _maps(
    model: Owl2ForConditionalGeneration,
    pixel_values: torch.Tensor | None,
    row: torch.Tensor,
    shown: torch.Tensor,
    through: Through,
) -> list[dict[str, Any]]:
    """The share of the attention that goes to each image, and its map over the image.

    Args:
        row: [V] attention to the visual tokens.
        shown: [V] what is drawn: the same, or less the prompt's average.
    """
    if pixel_values is None:
        return []
    read = patches_read(model, pixel_values, through)  # [N, Q, rows, columns]
    size = model.config.tokens_per_image
    # Where less than the average goes to an image, nothing of its map is left: zeros, not 0 / 0.
    return [
        {
            "share": float(row[image * size : (image + 1) * size].sum()),
            "map": on_patches(shown, read[image], image, model.config).nan_to_num(0.0).tolist(),
        }
        for image in range(len(pixel_values))
    ]


async def _occlude(state: ServerState, word: _Word, image: int, groups: int) -> torch.Tensor:
    model, run = state.engine.model, state.engine.run_in_vision_thread
    inputs = word.inputs(model, len(word.before))
    (rows, columns), losses = occlusion_losses(model, inputs, word.tokens[0], image, groups, _COPIES_AT_A_TIME)
    found = []
    while (batch := await run(next, losses, None)) is not None:
        found.append(batch)
    return torch.cat(found).view(rows, columns)


def _names(state: ServerState, word: _Word) -> list[str]:
    return [answering.token_name(state, token) for token in word.tokens]


def _what_was_averaged(
    body: AttentionRequest, layers: list[int], heads: list[int], num_tokens: int, connector: str
) -> str:
    """Says what was averaged, to be read under a map."""
    parts = [
        _counted("layer", layers, body.layers is None),
        _counted("head", heads, body.heads is None),
        "the word's one token" if num_tokens == 1 else f"the word's {num_tokens} tokens",
    ]
    abstractor = "last layer" if body.through == "last" else "layers rolled out"
    seen = "each visual token on its patch" if connector == "mlp" else f"seen through the abstractor's {abstractor}"
    text = f"Mean over {parts[0]}, {parts[1]} and {parts[2]}, {seen}"
    return text + (", less the average of the prompt's tokens." if body.minus_average else ".")


def _counted(what: str, chosen: list[int], is_all: bool) -> str:
    if is_all:
        return f"all {len(chosen)} {what}s"
    return f"{what}{'s' if len(chosen) > 1 else ''} {', '.join(map(str, chosen))}"
