"""The loss of soft quality labels (DeQA-Score: You et al., arXiv 2501.11561, section 3.3).

It is the divergence from the distribution of the opinions at the level token of the answer, the next token elsewhere,
and for each two images of one source the fidelity of which is better. (B samples, S positions, V vocabulary, L levels)
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from owl2.data.opinions import LEVEL_VALUES, LEVELS
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.modeling.owl2 import IGNORE_INDEX
from owl2.processing import Owl2Processor
from owl2.training.data.encoding import OPINION
from owl2.training.recipe.quality import QualitySettings

_EPSILON = 1e-8


@dataclass(frozen=True)
class QualityLoss:
    """The three losses of a batch, weighted.

    Attributes:
        level_ids: Tokens of the level words, best first.
    """

    settings: QualitySettings
    level_ids: tuple[int, ...]

    @classmethod
    def of(cls, settings: QualitySettings, processor: Owl2Processor) -> "QualityLoss":
        """The loss for a tokenizer.

        Raises:
            ValueError: A level word is not one token.
        """
        return cls(settings, level_tokens(processor))

    def summed(self, model: Owl2ForConditionalGeneration, inputs: dict[str, Any]) -> torch.Tensor:
        """The sum over the samples of a batch, which is 0 for padding alone.

        Raises:
            ValueError: An answer has not exactly one level word.
        """
        opinion = inputs.get(OPINION)
        batch = {name: tensor for name, tensor in inputs.items() if name != OPINION}
        output = model(**batch, supervised_logits_only=True, use_cache=False)
        if opinion is None:
            return output.logits.sum() * 0.0
        targets = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE_INDEX)
        supervised = targets != IGNORE_INDEX
        samples, tokens = supervised.nonzero()[:, 0], targets[supervised]
        ids = torch.tensor(self.level_ids, device=tokens.device)
        is_level = torch.isin(tokens, ids)
        if not torch.equal(samples[is_level], torch.arange(len(opinion), device=samples.device)):
            raise ValueError("an answer must have exactly one of the level words: is its text cut off by max_length?")
        logits = output.logits.float()
        return self._combined(logits, tokens, samples, is_level, ids, opinion.float())

    def _combined(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        samples: torch.Tensor,
        is_level: torch.Tensor,
        ids: torch.Tensor,
        opinion: torch.Tensor,
    ) -> torch.Tensor:
        settings, count = self.settings, len(opinion)
        probabilities, score, deviation, source = opinion.split([len(ids), 1, 1, 1], dim=1)
        level_logits = logits[is_level]  # [B, V]
        total = settings.level_weight * level_divergence(level_logits, ids, probabilities).sum()
        losses = F.cross_entropy(logits[~is_level], tokens[~is_level], reduction="none")
        others = torch.zeros(count, device=losses.device).index_add(0, samples[~is_level], losses)
        numbers = torch.bincount(samples[~is_level], minlength=count).clamp(min=1)
        total = total + settings.next_token_weight * (others / numbers).sum()
        if settings.fidelity_weight and count > 1:
            predicted = torch.softmax(level_logits[:, ids], dim=1) @ ids.new_tensor(LEVEL_VALUES, dtype=torch.float32)
            fidelity = fidelity_loss(predicted, score[:, 0], deviation[:, 0], source[:, 0])
            total = total + settings.fidelity_weight * count * fidelity
        return total


def level_divergence(logits: torch.Tensor, ids: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence [B] of the predicted next token from the levels [B, L], over the whole vocabulary."""
    predicted = torch.log_softmax(logits, dim=1)[:, ids]
    return (torch.xlogy(probabilities, probabilities) - probabilities * predicted).sum(1)


def fidelity_loss(
    predicted: torch.Tensor, score: torch.Tensor, deviation: torch.Tensor, source: torch.Tensor
) -> torch.Tensor:
    """The mean over the pairs of a batch from one source; 0 if there are none.

    The probability that the first of two is better follows from a normal distribution of each: the predicted one has
    variance 1, as in DeQA-Score's training, and that of the opinions its own.

    Args:
        predicted, score, deviation: [B] values in levels.
        source: [B] sources; scores of different sources are not compared.
    """
    first, second = torch.triu_indices(len(predicted), len(predicted), offset=1, device=predicted.device)
    same = source[first] == source[second]
    first, second = first[same], second[same]
    if len(first) == 0:
        return predicted.sum() * 0.0
    found = _better((predicted[first] - predicted[second]) / math.sqrt(2))
    spread = torch.sqrt(deviation[first] ** 2 + deviation[second] ** 2 + _EPSILON)
    wanted = _better((score[first] - score[second]) / spread)
    agreement = (found * wanted + _EPSILON).sqrt() + ((1 - found) * (1 - wanted) + _EPSILON).sqrt()
    return (1 - agreement).mean()


def _better(difference: torch.Tensor) -> torch.Tensor:
    """The standard normal distribution function."""
    return 0.5 * (1 + torch.erf(difference / math.sqrt(2)))


def level_tokens(processor: Owl2Processor) -> tuple[int, ...]:
    """The token of each level word as the end of an answer.

    Raises:
        ValueError: A word is several tokens, or two words share one.
    """
    before = processor.encode_prompt("The quality of the image is")["input_ids"]
    found = [processor.encode_prompt(f"The quality of the image is {word}")["input_ids"] for word in LEVELS]
    several = [word for word, ids in zip(LEVELS, found, strict=True) if ids[:-1] != before]
    tokens = tuple(ids[-1] for ids in found)
    if several or len(set(tokens)) < len(LEVELS):
        raise ValueError(
            f"each of the levels {', '.join(LEVELS)} must be one token of its own"
            + (f", but {several[0]} is not: model.new_words=[{','.join(several)}] makes it one" if several else "")
        )
    return tokens
