"""Collates encoded samples of unequal lengths. (B samples, S the longest of them, N images in all)"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from owl2.labels import IGNORE_INDEX

from .tokenization import TEXT, TokenSequence


def padding_values(pad_token_id: int) -> dict[str, Any]:
    """The value that fills each entry of a sample where there is no token."""
    return {
        "input_ids": pad_token_id,
        "attention_mask": 0,
        "mm_token_type_ids": TEXT,
        "labels": IGNORE_INDEX,
        "offset_mapping": (0, 0),
        "special_tokens_mask": 1,
    }


def encoded_sample(sequence: TokenSequence, is_learnt: Sequence[bool], pixels: Sequence[np.ndarray]) -> dict[str, Any]:
    """One sample for training.

    Args:
        sequence: Its tokens.
        is_learnt: Whether each token is a target; visual rows never are.
        pixels: [3, H, W] of each image or frame.

    Returns:
        Lists `input_ids`, `attention_mask`, `mm_token_type_ids`, `labels`, and a tensor `pixel_values` [n, 3, H, W]
        if there are images.

    Raises:
        ValueError: No token is a target.
    """
    labels = [
        token if learnt and modality == TEXT else IGNORE_INDEX
        for token, modality, learnt in zip(
            sequence.input_ids, sequence.mm_token_type_ids, is_learnt[: len(sequence)], strict=True
        )
    ]
    if all(label == IGNORE_INDEX for label in labels):
        raise ValueError(f"none of {len(labels)} tokens is to be learnt: an answer of the assistant is missing or cut")
    sample: dict[str, Any] = {
        "input_ids": sequence.input_ids,
        "attention_mask": [1] * len(sequence),
        "mm_token_type_ids": sequence.mm_token_type_ids,
        "labels": labels,
    }
    if len(pixels):
        sample["pixel_values"] = torch.from_numpy(np.stack(pixels))
    return sample


def pad_rows(
    rows: dict[str, list[list[Any]]],
    pad_token_id: int,
    padding: bool | str | None,
    padding_side: str,
    max_length: int | None,
    pad_to_multiple_of: int | None = None,
) -> dict[str, list[list[Any]]]:
    """Pads named rows as transformers does: `padding` True or "longest", "max_length", or False.

    Raises:
        ValueError: Another `padding` or `padding_side`, or "max_length" without `max_length`.
    """
    if padding in (False, None, "do_not_pad"):
        return rows
    if padding not in (True, "longest", "max_length"):
        raise ValueError(f"padding={padding!r} is unknown: use True, 'longest', 'max_length' or False")
    length = max(len(row) for row in rows["input_ids"])
    if padding == "max_length":
        if max_length is None:
            raise ValueError("padding='max_length' needs max_length, which is None")
        length = max_length
    if pad_to_multiple_of:
        length = math.ceil(length / pad_to_multiple_of) * pad_to_multiple_of
    values = padding_values(pad_token_id)
    return {name: [pad_sequence(row, length, values[name], padding_side) for row in own] for name, own in rows.items()}


def pad_sequence(row: list[Any], length: int, value: Any, padding_side: str) -> list[Any]:
    """Fills one row up to `length` with `value` on the "left" or the "right".

    Raises:
        ValueError: Another `padding_side`.
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side={padding_side!r} must be 'left' or 'right'")
    padding = [value] * (length - len(row))
    return padding + row if padding_side == "left" else row + padding


def pad_encoded(
    samples: Sequence[dict[str, Any]], pad_token_id: int, padding_side: str = "right"
) -> dict[str, torch.Tensor]:
    """Collates encoded samples.

    Args:
        samples: Dictionaries of lists of equal length within a sample (`input_ids`, `labels`, ...), and maybe
            `pixel_values` [n, 3, H, W]. All but `pixel_values` must be in all samples or in none.
        pad_token_id: Fills `input_ids`; labels are filled with -100, masks and modalities with 0.
        padding_side: "left" or "right".

    Returns:
        int64 tensors [B, S], and `pixel_values` [N, 3, H, W] in the order of the samples, if there are any.

    Raises:
        ValueError: No samples, or some lack an entry that others have.
    """
    if not samples:
        raise ValueError("there is nothing to pad: the list of samples is empty")
    names = [name for name in samples[0] if name != "pixel_values"]
    for index, sample in enumerate(samples):
        if set(sample) - {"pixel_values"} != set(names):
            raise ValueError(f"sample {index} has the entries {sorted(sample)}, but sample 0 has {sorted(samples[0])}")
    length = max(len(sample["input_ids"]) for sample in samples)
    padding = padding_values(pad_token_id)
    batch = {
        name: torch.tensor([pad_sequence(sample[name], length, padding[name], padding_side) for sample in samples])
        for name in names
    }
    return batch | joined_pixels(samples)


def joined_pixels(samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """`pixel_values` [N, 3, H, W] of all samples in their order; nothing if none has any."""
    pixels = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
    return {"pixel_values": torch.cat(pixels)} if pixels else {}
