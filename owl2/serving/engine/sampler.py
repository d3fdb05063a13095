"""Sampling per request, inside a manager that takes the most likely token of every row.

Gumbel's maximum: the token of highest `score / temperature + noise` is a draw from the softmax. The noise depends only
on the seed of the request and the position of the token, so that a seed gives the same answer alone and under any load.
Shapes: R rows of a step that end in a new token, V vocabulary.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

from .grammar import Guide

LOWEST_TEMPERATURE = 1e-6
"""Below this temperature sampling is greedy: scores that are divided by it would overflow."""


@dataclass(frozen=True)
class Sampling:
    """The settings by which the tokens of an answer are drawn.

    Attributes:
        temperature: 0 takes the most likely token each time.
        top_k: Draw among the k most likely tokens; 0 takes all.
        top_p: Draw among the most likely tokens that together have this probability.
        frequency_penalty, presence_penalty: Subtracted from the score of a token of the answer so far, for each of its
            occurrences, and once.
        logit_bias: Added to the scores of tokens.
        top_logprobs: Report the log-probability of each token and of that many most likely ones; None reports nothing.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None

    @property
    def is_greedy(self) -> bool:
        return self.temperature < LOWEST_TEMPERATURE

    @property
    def changes_scores(self) -> bool:
        return bool(self.frequency_penalty or self.presence_penalty or self.logit_bias or not self.is_greedy)


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of the model, before temperature, penalties and bias: of a token, and of the likeliest."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass
class Draws:
    """The sampler's state of one answer.

    Attributes:
        seed: Seed of its noise; answers to one request have different ones (`seed_of_choice`).
        prompt_length: Tokens before the answer.
        guide: Says which tokens may come.
        logprobs: One entry for each token drawn so far, if they are asked for.
    """

    sampling: Sampling
    seed: int
    prompt_length: int
    guide: Guide | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)


class GumbelSampler(ContinuousBatchingLogitsProcessor):
    """Changes scores so that the most likely token is the one drawn."""

    supported_kwargs: dict[str, type] = {}
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.draws: dict[str, Draws] = {}
        self._rows: list[tuple[Draws | None, list[int]]] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """Notes which requests' rows come next; the scores follow in the same thread."""
        self._rows = []
        for request in requests_with_new_token:
            state = request.state
            draws = self.draws.get(state.request_id)
            # A request that had to leave the cache comes back with its answer as part of its prompt.
            tokens = [] if draws is None else (state.initial_tokens + state.generated_tokens)[draws.prompt_length :]
            self._rows.append((draws, tokens))
        return torch.zeros(len(self._rows), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        for row, (draws, tokens) in enumerate(self._rows):
            if draws is None:
                continue
            sampling = draws.sampling
            raw = scores[row]
            allowed = None if draws.guide is None else draws.guide.allowed(tokens).to(raw.device)
            if sampling.changes_scores:
                # New memory: the scores are the model's own output.
                drawn = sampled_scores(raw, sampling, tokens, draws.seed, allowed)
            else:
                drawn = raw if allowed is None else raw.masked_fill(~allowed, float("-inf"))
            if sampling.top_logprobs is not None:
                draws.logprobs.append(_logprobs(raw, int(drawn.argmax()), sampling.top_logprobs))
            scores[row] = drawn
        return scores

    def as_list(self) -> LogitsProcessorList:
        return LogitsProcessorList([self])


def sampled_scores(
    scores: torch.Tensor, sampling: Sampling, tokens: list[int], seed: int, allowed: torch.Tensor | None = None
) -> torch.Tensor:
    """Scores [V] whose maximum is the token drawn after `tokens`, among those allowed [V]."""
    scores = penalized(scores.float(), sampling, tokens)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    if sampling.is_greedy:
        return scores
    scores = restrict(scores / sampling.temperature, sampling.top_k, sampling.top_p)
    noise = gumbel_noise(seed, len(tokens), scores.shape[-1]).to(scores.device)
    return (scores + noise).to(torch.float32)


def penalized(scores: torch.Tensor, sampling: Sampling, tokens: list[int]) -> torch.Tensor:
    """Scores [V] after both penalties and the bias."""
    scores = scores.clone()
    if tokens and (sampling.frequency_penalty or sampling.presence_penalty):
        ids, counts = torch.tensor(tokens, device=scores.device).unique(return_counts=True)
        scores[ids] -= sampling.frequency_penalty * counts + sampling.presence_penalty
    for token, bias in sampling.logit_bias:
        scores[token] += bias
    return scores


def restrict(scores: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Scores [V] with all but the most likely tokens at minus infinity."""
    if 0 < top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[-1], float("-inf"))
    if top_p < 1:
        ordered, order = scores.sort(descending=True, stable=True)
        probabilities = ordered.softmax(dim=-1)
        # A token stays if those before it do not reach the probability yet; the first one always does.
        outside = probabilities.cumsum(dim=-1) - probabilities >= top_p
        outside[0] = False
        scores = scores.masked_fill(torch.zeros_like(outside).scatter(0, order, outside), float("-inf"))
    return scores


def gumbel_noise(seed: int, position: int, size: int) -> torch.Tensor:
    """Noise [V] in float64 that depends on nothing but its arguments, on any device."""
    digest = hashlib.blake2b(f"{seed} {position}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    uniform = torch.rand(size, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform))


def seed_of_choice(seed: int, index: int) -> int:
    """The seed of the answer with this index; the first answer has the seed of the request."""
    if index == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} choice {index}".encode(), digest_size=8).digest(), "little") >> 1


def _logprobs(scores: torch.Tensor, token: int, count: int) -> TokenLogprobs:
    values = torch.log_softmax(scores.float(), dim=-1)
    top = values.topk(min(count, values.shape[-1])) if count else None
    pairs = () if top is None else tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return TokenLogprobs(token, float(values[token]), pairs)
