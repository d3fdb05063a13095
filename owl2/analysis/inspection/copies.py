"""The copies for vision in the decoder: how far training moved them, and what happens without them.

Shapes: L decoder layers.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from owl2.analysis.attention.recording import base_model

_COPY = re.compile(r"language_model\.layers\.(\d+)\.(.*)\bvision_([\w.]+)$")


class Copy(NamedTuple):
    """A copy for vision and the parameter of text that it stands beside.

    Attributes:
        name: Name within the layer, without `vision_`: `self_attn.k_proj.weight`.
    """

    layer: int
    name: str
    vision: torch.Tensor
    text: torch.Tensor


class Drift(NamedTuple):
    """How far a copy is from its origin.

    Attributes:
        distance: Norm of the difference as a share of the norm of the origin.
        angle: Between the two as vectors, in degrees.
    """

    layer: int
    name: str
    distance: float
    angle: float


def vision_copies(model: nn.Module) -> list[Copy]:
    """All copies of a model, layer by layer.

    Raises:
        ValueError: It has none.
    """
    parameters = dict(base_model(model).named_parameters())
    found = []
    for full, vision in parameters.items():
        match = _COPY.search(full)
        if match is None:
            continue
        name = match[2] + match[3]
        text = parameters[full[: match.start(2)] + name]
        found.append(Copy(int(match[1]), name, vision.detach(), text.detach()))
    if not found:
        raise ValueError("the model has no copies for vision: it was made without the modality-adaptive module")
    return found


def drift_of_copies(model: nn.Module, start: nn.Module | None = None) -> list[Drift]:
    """How far the copies for vision moved.

    Args:
        start: The model at the first step; without it, the copies are compared with those for text, which they began
            as.

    Raises:
        ValueError: A model has no copies, or the two have other ones.
    """
    now = vision_copies(model)
    if start is None:
        origins = [copy.text for copy in now]
    else:
        before = vision_copies(start)
        if [(copy.layer, copy.name) for copy in before] != [(copy.layer, copy.name) for copy in now]:
            raise ValueError("the two models have other copies for vision: they are not stages of one training")
        origins = [copy.vision for copy in before]
    return [_drift(copy, origin) for copy, origin in zip(now, origins, strict=True)]


def _drift(copy: Copy, origin: torch.Tensor) -> Drift:
    now, then = copy.vision.double().flatten(), origin.double().flatten()
    if now.shape != then.shape:
        raise ValueError(f"layer {copy.layer}, {copy.name}: {tuple(copy.vision.shape)} and {tuple(origin.shape)}")
    cosine = (now @ then / (now.norm() * then.norm()).clamp(min=torch.finfo(now.dtype).tiny)).clamp(-1, 1)
    return Drift(copy.layer, copy.name, float((now - then).norm() / then.norm()), float(torch.rad2deg(cosine.acos())))


@contextmanager
def text_copies_for_vision(model: nn.Module, layers: list[int] | None = None) -> Iterator[None]:
    """The causal swap: inside the context, visual tokens of some layers go through the parameters of text.

    Args:
        layers: All by default.

    Raises:
        ValueError: The model has no copies, or no such layer.
    """
    copies = vision_copies(model)
    known = {copy.layer for copy in copies}
    if layers is not None and not set(layers) <= known:
        raise ValueError(f"there is no layer {min(set(layers) - known)}: the decoder has {len(known)}, from 0")
    chosen = [copy for copy in copies if layers is None or copy.layer in layers]
    kept = [copy.vision.clone() for copy in chosen]
    try:
        for copy in chosen:
            copy.vision.copy_(copy.text)
        yield
    finally:
        for copy, vision in zip(chosen, kept, strict=True):
            copy.vision.copy_(vision)
