"""What if a part of the image were hidden? The causal check beside attention, which is not importance.

Shapes: N occluded copies, in rows x columns of groups of patches.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from .recording import base_model


def occlusion_map(
    model: nn.Module, inputs: Mapping[str, Any], token: int, image: int = 0, groups: int = 7, batch_size: int = 8
) -> torch.Tensor:
    """How much log-probability the next token loses where a group of patches is hidden behind the image's mean colour.

    Args:
        inputs: A batch of one, whose last position predicts the token.
        token: Id of the token.
        image: Which of the prompt's images.
        groups: The image is hidden in at most this many rows and columns of groups, each of whole patches.
        batch_size: Copies that are read at a time.

    Returns:
        [rows, columns]: log-probability with the whole image less that with the group hidden; above 0 where the group
        speaks for the token.

    Raises:
        ValueError: The prompt has no such image, or groups or batch size are below 1.
    """
    shape, losses = occlusion_losses(model, inputs, token, image, groups, batch_size)
    return torch.cat(list(losses)).view(shape)


def occlusion_losses(
    model: nn.Module, inputs: Mapping[str, Any], token: int, image: int = 0, groups: int = 7, batch_size: int = 8
) -> tuple[tuple[int, int], Iterator[torch.Tensor]]:
    """`occlusion_map` for a caller that has other work between its batches.

    Returns:
        Rows and columns of the map, and its values in their order, each batch read when it is asked for.

    Raises:
        ValueError: As `occlusion_map`.
    """
    pixels = inputs.get("pixel_values")
    count = 0 if pixels is None else pixels.shape[0]
    if pixels is None or not 0 <= image < count:
        raise ValueError(f"asked for image {image}, but the prompt has {count}")
    if groups < 1 or batch_size < 1:
        raise ValueError(f"groups={groups} and batch_size={batch_size} must be at least 1")
    patch = base_model(model).config.vision_config.patch_size
    rows, columns = (_spans(side // patch, groups, patch) for side in pixels.shape[-2:])
    hidden = [_hide(pixels, image, row, column) for row in rows for column in columns]

    def losses() -> Iterator[torch.Tensor]:
        whole = _log_probability(model, inputs, [pixels], token)
        for start in range(0, len(hidden), batch_size):
            yield whole - _log_probability(model, inputs, hidden[start : start + batch_size], token)

    return (len(rows), len(columns)), losses()


def _spans(patches: int, groups: int, patch: int) -> list[slice]:
    """Sides of the groups in pixels, as equal as whole patches allow."""
    edges = torch.linspace(0, patches, min(groups, patches) + 1).round().int().tolist()
    return [slice(first * patch, last * patch) for first, last in zip(edges, edges[1:], strict=False)]


def _hide(pixels: torch.Tensor, image: int, rows: slice, columns: slice) -> torch.Tensor:
    copy = pixels.clone()
    copy[image, :, rows, columns] = pixels[image].mean(dim=(1, 2), keepdim=True)
    return copy


@torch.no_grad()
def _log_probability(
    model: nn.Module, inputs: Mapping[str, Any], copies: list[torch.Tensor], token: int
) -> torch.Tensor:
    """[N] log-probability of the token behind each copy of the prompt."""
    repeated = {
        key: value.expand(len(copies), *value.shape[1:]) if isinstance(value, torch.Tensor) else value
        for key, value in inputs.items()
        if key != "pixel_values"
    }
    logits = model(**repeated, pixel_values=torch.cat(copies), logits_to_keep=1).logits[:, -1]
    return logits.float().log_softmax(-1)[:, token].cpu()
