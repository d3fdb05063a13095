"""Controls of the modality-adaptive module: tokens go to the second copies by a hash instead of by their modality.

A control has as many parameters and as much training as the module, but no knowledge of modality: the claim is about
what the module adds beyond that. A token's way depends only on a seed, its sample and its position, so that it is the
same alone and in a batch, with and without a cache.

Shapes: B batch, S sequence.
"""

import torch

_POSITION, _TOKEN, _SEED = 0x9E3779B97F4A7C15 - (1 << 64), 0x632BE59BD9B4E019, 0x2545F4914F6CDD1D  # odd
_BITS = 53


def sample_keys(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, position_ids: torch.Tensor | None = None
) -> torch.Tensor:
    """A number that tells samples apart, at each of their tokens.

    Args:
        input_ids: [B, S] of whole prompts.
        attention_mask: [B, S], 0 at padding, which does not count.
        position_ids: [B, S]; without an attention mask, each place where they restart begins another packed sample.

    Returns:
        Integers [B, S], the same at all tokens of a sample.
    """
    if attention_mask is not None:
        positions = attention_mask.long().cumsum(1) - 1
        values = _mixed(input_ids * _TOKEN + positions * _POSITION) * attention_mask.long()
        return values.sum(1, keepdim=True).expand_as(input_ids)
    positions = torch.arange(input_ids.shape[1], device=input_ids.device) if position_ids is None else position_ids
    positions = positions.expand_as(input_ids)
    begins = torch.ones_like(positions, dtype=torch.bool)
    begins[:, 1:] = positions[:, 1:] <= positions[:, :-1]
    sample = begins.long().cumsum(1) - 1  # [B, S] number of the sample within its row
    values = _mixed(input_ids * _TOKEN + positions * _POSITION)
    sums = torch.zeros_like(values).scatter_add(1, sample, values)
    return sums.gather(1, sample)


def hashed(keys: torch.Tensor, positions: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """A mask of the tokens that go to the second copies, [B, S] bool: each with the probability `share`.

    Args:
        keys: [B, S] or [B, 1], see `sample_keys`.
        positions: [B, S] or [1, S] of the tokens in their sample.
    """
    drawn = _mixed(_mixed(keys + _wrapped(seed * _SEED)) + positions * _POSITION)
    return _shifted(drawn, 64 - _BITS) < int(share * (1 << _BITS))


def _mixed(values: torch.Tensor) -> torch.Tensor:
    """The finalizer of SplitMix64, in integers that wrap around."""
    values = (values ^ _shifted(values, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    values = (values ^ _shifted(values, 27)) * (0x94D049BB133111EB - (1 << 64))
    return values ^ _shifted(values, 31)


def _wrapped(value: int) -> int:
    """An integer as torch's 64 bits hold it."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _shifted(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Shifted to the right with zeros coming in: torch's own shift repeats the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
