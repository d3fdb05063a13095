"""Likelihoods of choices after a context; what choices share is run once.

Three things are shared: text that opens the contexts of a batch, such as the shots of a subject, is kept from batch to
batch; a context with its image runs once for all its choices; and a choice of one token is read off the context's last
position. Shapes: B samples, S positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from owl2.evaluation.task import Ranking
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor

_SHORTEST_SHARED = 16  # tokens; a shorter beginning is not worth a pass of its own


@dataclass(frozen=True)
class Choices:
    """The choices to rank for one sample, in tokens.

    Attributes:
        context: `input_ids` and `mm_token_type_ids` of all that stands before the choices.
        continuations: Tokens of each choice, at least one.
        pixel_values: [n, 3, H, W] of the images in the context.
    """

    texts: tuple[str, ...]
    context: dict[str, list[int]]
    continuations: tuple[tuple[int, ...], ...]
    pixel_values: torch.Tensor | None = None

    @property
    def ids(self) -> list[int]:
        return self.context["input_ids"]


def tokenize_choices(
    processor: Owl2Processor, prompt: str, choices: Sequence[str], pixel_values: torch.Tensor | None = None
) -> Choices:
    """Tokens of a prompt and its choices: each is tokenized with the prompt, since the pieces of a word depend on what
    stands before it. The context is the part of the prompt that all of them share.

    Raises:
        ValueError: No choices, or one that is empty.
    """
    if not choices or not all(choices):
        raise ValueError(f"the choices to rank must not be empty, got {list(choices)}")
    alone = processor.encode_prompt(prompt)
    whole = [processor.encode_prompt(prompt + choice)["input_ids"] for choice in choices]
    length = min(shared_length(alone["input_ids"], tokens) for tokens in whole)
    length = min(length, *(len(tokens) - 1 for tokens in whole))
    context = {name: alone[name][:length] for name in ("input_ids", "mm_token_type_ids")}
    return Choices(tuple(choices), context, tuple(tuple(tokens[length:]) for tokens in whole), pixel_values)


@dataclass
class LikelihoodScorer:
    """Ranks the choices of batches of samples.

    Args:
        shares_prefixes: Keep the state after the text that opens the contexts from batch to batch.
    """

    model: Owl2ForConditionalGeneration
    pad_token_id: int
    shares_prefixes: bool = True
    _prefix: list[int] = field(default_factory=list, init=False)
    _prefix_state: "_State | None" = field(default=None, init=False)

    @torch.inference_mode()
    def rank(self, samples: Sequence[Choices], whole_sequences: bool = False) -> list[Ranking]:
        """Likelihoods of the choices of each sample.

        Args:
            whole_sequences: Also compute those of the contexts, which takes logits at every position.
        """
        contexts = self._run_contexts(samples, whole_sequences)
        chosen = self._run_choices(samples, contexts)
        rankings = []
        for index, (sample, log_probabilities) in enumerate(zip(samples, chosen, strict=True)):
            rankings.append(
                Ranking(
                    sample.texts,
                    tuple(log_probabilities),
                    tuple(len(tokens) for tokens in sample.continuations),
                    contexts.log_probabilities[index],
                    len(sample.ids) - 1 if whole_sequences else 0,
                )
            )
        return rankings

    def _run_contexts(self, samples: Sequence[Choices], whole_sequences: bool) -> "_State":
        prefix = self._shared_prefix(samples)
        state = self._run_prefix(prefix, whole_sequences, len(samples))
        rest = [{name: row[len(prefix) :] for name, row in sample.context.items()} for sample in samples]
        pixels = [sample.pixel_values for sample in samples if sample.pixel_values is not None]
        return self._extend(state, rest, torch.cat(pixels) if pixels else None, whole_sequences)

    def _shared_prefix(self, samples: Sequence[Choices]) -> list[int]:
        """The text with which all contexts begin; each keeps at least one token of its own."""
        if not self.shares_prefixes:
            return []
        rows = [sample.ids for sample in samples]
        if len(samples) == 1 and not self._prefix:
            # Nothing to compare with yet: a next sample may share all but the last token.
            length = len(rows[0]) - 1
        else:
            length = min(shared_length(rows[0], row) for row in rows)
            kept = shared_length(self._prefix, rows[0][:length])
            if kept >= max(_SHORTEST_SHARED, length // 2):
                length = kept  # much was run for the batch before
        length = min(length, *(len(row) - 1 for row in rows))
        for sample in samples:
            types = sample.context["mm_token_type_ids"][:length]
            length = next((index for index, kind in enumerate(types) if kind), length)
        return rows[0][:length] if length >= _SHORTEST_SHARED else []

    def _run_prefix(self, prefix: list[int], whole_sequences: bool, count: int) -> "_State":
        """The state after the prefix, `count` times; it is run only if the last prefix does not begin with it."""
        if not prefix:
            return _State.empty(self.model, count)
        known, state = shared_length(self._prefix, prefix), self._prefix_state
        # The likelihood of the token after a shortened prefix is not known.
        usable = known == len(self._prefix) and state is not None and state.is_whole if whole_sequences else state
        if state is None or known < len(prefix) or not usable:
            row = {"input_ids": prefix, "mm_token_type_ids": [0] * len(prefix)}
            state = self._extend(_State.empty(self.model, 1), [row], None, whole_sequences)
            self._prefix, self._prefix_state = prefix, state
        return state.selected([0] * count, len(prefix))

    def _extend(
        self,
        state: "_State",
        rows: Sequence[dict[str, list[int]]],
        pixel_values: torch.Tensor | None,
        whole_sequences: bool,
    ) -> "_State":
        """The state after further tokens of each sample, padded on the right to one length."""
        device = self.model.device
        lengths = [len(row["input_ids"]) for row in rows]
        longest = max(lengths)
        ids = _padded([row["input_ids"] for row in rows], self.pad_token_id, longest).to(device)
        types = _padded([row["mm_token_type_ids"] for row in rows], 0, longest).to(device)
        own = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).long().to(device)
        mask = torch.cat([state.mask, own], dim=1)
        positions = state.mask.sum(dim=1, keepdim=True) + torch.arange(longest, device=device)[None]
        hidden = self.model.model(
            input_ids=ids,
            pixel_values=None if pixel_values is None else pixel_values.to(device, self.model.dtype),
            attention_mask=mask,
            mm_token_type_ids=types,
            position_ids=positions,
            past_key_values=state.cache,
            use_cache=True,
        ).last_hidden_state  # [B, S, D]
        ends = torch.tensor(lengths, device=device) - 1
        last = self._log_softmax(hidden[torch.arange(len(rows), device=device), ends])  # [B, V]
        tokens: list[list[float]] = [[] for _ in rows]
        if whole_sequences:
            for index, length in enumerate(lengths):
                found = self._of_tokens(hidden[index, : length - 1], ids[index, 1:length])
                first = [] if state.last is None else [float(state.last[index, ids[index, 0]])]
                tokens[index] = state.tokens[index] + first + found
        return _State(state.cache, mask, last, tokens, whole_sequences)

    def _run_choices(self, samples: Sequence[Choices], contexts: "_State") -> list[list[float]]:
        """Log-probability of each choice of each sample."""
        assert contexts.last is not None
        found = [
            [float(contexts.last[index, tokens[0]]) for tokens in sample.continuations]
            for index, sample in enumerate(samples)
        ]
        longer = [
            (index, number)
            for index, sample in enumerate(samples)
            for number, tokens in enumerate(sample.continuations)
            if len(tokens) > 1
        ]
        if longer:
            rows = [samples[index].continuations[number] for index, number in longer]
            inputs = [{"input_ids": [*row[:-1]], "mm_token_type_ids": [0] * (len(row) - 1)} for row in rows]
            state = contexts.selected([index for index, _ in longer])
            rest = self._continuation_log_probabilities(state, inputs, rows)
            for (index, number), value in zip(longer, rest, strict=True):
                found[index][number] += value
        return found

    def _continuation_log_probabilities(
        self, state: "_State", inputs: Sequence[dict[str, list[int]]], rows: Sequence[tuple[int, ...]]
    ) -> list[float]:
        """Log-probabilities of all but the first token of each row, which are run after the state."""
        extended = self._extend(_State(state.cache, state.mask, None, [[] for _ in rows], False), inputs, None, True)
        assert extended.last is not None
        return [sum(extended.tokens[index]) + float(extended.last[index, row[-1]]) for index, row in enumerate(rows)]

    def _of_tokens(self, hidden: torch.Tensor, tokens: torch.Tensor, chunk: int = 1024) -> list[float]:
        """Log-probabilities of tokens [S] after the positions of `hidden` [S, D]."""
        found: list[float] = []
        for start in range(0, len(tokens), chunk):
            scores = self._log_softmax(hidden[start : start + chunk])
            found += scores.gather(1, tokens[start : start + chunk, None])[:, 0].tolist()
        return found

    def _log_softmax(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.model.lm_head(hidden).float(), dim=-1)


@dataclass
class _State:
    """The state of the model after what it has read of B samples.

    Attributes:
        mask: [B, S], 0 at padding.
        last: Log-probabilities [B, V] of the next token; None where nothing was read.
        tokens: Log-probabilities of all tokens read except the first, if `is_whole`.
    """

    cache: DynamicCache
    mask: torch.Tensor
    last: torch.Tensor | None
    tokens: list[list[float]]
    is_whole: bool

    @classmethod
    def empty(cls, model: Owl2ForConditionalGeneration, size: int) -> "_State":
        mask = torch.zeros(size, 0, dtype=torch.long, device=model.device)
        return cls(DynamicCache(config=model.config.text_config), mask, None, [[] for _ in range(size)], True)

    @property
    def log_probabilities(self) -> list[float]:
        return [sum(tokens) for tokens in self.tokens]

    def selected(self, indices: list[int], length: int | None = None) -> "_State":
        """A copy of some samples, which may be repeated, or of their first `length` tokens."""
        length = self.mask.shape[1] if length is None else length
        is_shorter = length < self.mask.shape[1]
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self._layers()):
            cache.update(keys[indices, :, :length], values[indices, :, :length], number)
        tokens = [self.tokens[index][: length - 1] if is_shorter else [*self.tokens[index]] for index in indices]
        last = None if self.last is None or is_shorter else self.last[indices]
        return _State(cache, self.mask[indices, :length], last, tokens, self.is_whole)

    def _layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if not self.mask.shape[1]:
            return []
        return [(layer.keys, layer.values) for layer in self.cache.layers]


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """The number of tokens that two rows have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _padded(rows: Sequence[Sequence[int]], value: int, length: int) -> Any:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])
