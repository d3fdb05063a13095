"""Memory of one GPU in training, from sizes alone (no model is built).

Frozen weights stay, and so do trained float32 weights with both means of AdamW. What the layers keep for the backward
pass, layers gathered from other ranks, gradients and logits come and go with a micro-batch.
`estimate_memory` walks the backward pass, in which activations go and gradients come, and reports its worst moment.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from owl2.modeling import Owl2Config, Owl2TextConfig
from owl2.modeling.chunked_loss import CHUNK_LOGITS
from owl2.modeling.parts import part_of_projection, projection_sizes
from owl2.training.adapters.quantize import BYTES_PER_WEIGHT
from owl2.training.distributed.parallelize import LOCAL_ACCUMULATION_SHARE

from .flops import Trained
from .layer_memory import (
    NOTHING,
    Layer,
    MicroBatch,
    Placement,
    abstractor_layer,
    decoder_layer,
    mlp_layer,
    vision_layer,
)

WEIGHT_AND_ADAM, GRADIENT = 12, 4
"""The bytes of a trained parameter: float32 weight and two means, float32 gradient."""

OTHER = 2 * 2**30
"""Memory that is not counted tensor by tensor: CUDA context, libraries, buffers of communication, fragmentation."""

DECODER_PARTS = ("decoder_vision", "decoder_text", "decoder_shared")

KINDS = (
    *("frozen weights", "trained weights and optimizer", "gradients", "gathered layers", "activations", "images"),
    *("logits", "other"),
)


class Parameters(NamedTuple):
    """Numbers of parameters by part: those of the model, the trained ones of them, and adapters apart."""

    all: dict[str, int]
    trained: dict[str, int]
    adapters: int


def count_trained(config: Owl2Config, counts: Mapping[str, int], trained: Trained) -> Parameters:
    """The numbers of trained parameters by those of all; a projection with an adapter is itself frozen."""
    text, lora = config.text_config, trained.lora
    learning = {part: count if part in trained.parts else 0 for part, count in counts.items()}
    adapters = 0
    for name, (fan_in, fan_out) in projection_sizes(text).items():
        if lora is None or name not in lora.targets:
            continue
        adapters += text.num_hidden_layers * lora.rank * (fan_in + fan_out)
        part = part_of_projection(text, name)
        learning[part] -= text.num_hidden_layers * fan_in * fan_out if part in trained.parts else 0
    return Parameters(dict(counts), learning, adapters)


def estimate_memory(
    config: Owl2Config, counts: Mapping[str, int], batch: MicroBatch, trained: Trained, shape: Placement
) -> dict[str, float]:
    """The bytes of one GPU at the worst moment, by kind (`KINDS`).

    Args:
        counts: Number of parameters of each part of `owl2.modeling.parts.PARTS`, without adapters.
    """
    parameters = count_trained(config, counts, trained)
    layers = _layers(config, parameters, batch, trained, shape)
    outside = parameters.trained["embeddings"]
    trains = sum(layer.trained for layer in layers) + outside
    pixels = batch.images * config.vision_config.num_channels * batch.image_size**2
    held = {
        "frozen weights": _frozen_bytes(config, parameters, shape),
        "trained weights and optimizer": WEIGHT_AND_ADAM * trains / shape.shards,
        "images": pixels * 4.0,
        "other": float(OTHER),
    }
    moments = _backward(config.text_config, layers, outside, trains, batch, shape)
    worst = max(moments, key=lambda kinds: sum(kinds.values()))
    return {kind: {**held, **worst}[kind] for kind in KINDS}


def _backward(
    config: Owl2TextConfig, layers: list[Layer], outside: float, trains: float, batch: MicroBatch, shape: Placement
) -> Iterable[dict[str, float]]:
    """The bytes that a micro-batch adds at each moment of its backward pass: at the head, then from the last layer on.

    Args:
        outside: Trained parameters of embeddings and head.
        trains: All trained parameters.
    """
    size = shape.compute_bytes
    fits_whole = trains * (GRADIENT + size) <= LOCAL_ACCUMULATION_SHARE * shape.device_bytes
    whole = shape.sharded and shape.accumulates and fits_whole
    kept = sum(layer.kept for layer in layers)
    gathered = 0.0
    if shape.sharded:  # what belongs to no layer stays; of the layers this one and the next are there
        gathered = (outside + 2 * max(layer.trained for layer in layers)) * size
    if whole:  # gathered once for all micro-batches of a step
        gathered = trains * size
    per_gradient = GRADIENT if whole else GRADIENT / shape.shards
    there = trains if shape.accumulates else outside
    supervised = batch.supervised * config.hidden_size * size  # the head's input and its gradient
    yield {
        "gradients": per_gradient * there + outside * size * shape.sharded,
        "gathered layers": gathered,
        "activations": kept + 3 * supervised,
        "logits": _logits_bytes(config, batch),
    }
    for layer in reversed(layers):
        kept -= layer.kept
        there += 0 if shape.accumulates else layer.trained
        # A layer's gradient is whole, in both precisions, until it is summed over the ranks.
        own = (outside * size + layer.trained * (size + GRADIENT)) * shape.sharded
        yield {
            "gradients": per_gradient * there + own,
            "gathered layers": gathered,
            "activations": kept + layer.whole + layer.workspace,
            "logits": 0.0,
        }


def _layers(
    config: Owl2Config, parameters: Parameters, batch: MicroBatch, trained: Trained, shape: Placement
) -> list[Layer]:
    """All layers in the order of the forward pass; parameters of a part outside its layers are divided among them."""
    vision, abstractor, text = config.vision_config, config.abstractor_config, config.text_config
    learning = parameters.trained
    learns_vision, learns_abstractor = learning["vision_encoder"] > 0, learning["abstractor"] > 0
    encoder = vision_layer(vision, batch, learns_vision, shape)
    encoder = encoder._replace(trained=learning["vision_encoder"] / vision.num_hidden_layers)
    connector_layers = 1 if config.connector == "mlp" else abstractor.num_hidden_layers
    connector_layer = mlp_layer if config.connector == "mlp" else abstractor_layer
    reader = connector_layer(config, batch, learns_abstractor, learns_vision, shape)
    reader = reader._replace(trained=learning["abstractor"] / connector_layers)
    reached = any(learning.values()) or parameters.adapters > 0
    decoder = decoder_layer(text, batch, trained, shape) if reached else NOTHING
    own = sum(learning[part] for part in DECODER_PARTS) + parameters.adapters
    decoder = decoder._replace(trained=own / text.num_hidden_layers / shape.tensor)
    counts = (vision.num_hidden_layers, connector_layers, text.num_hidden_layers)
    return [layer for layer, count in zip((encoder, reader, decoder), counts, strict=True) for _ in range(count)]


def _logits_bytes(config: Owl2TextConfig, batch: MicroBatch) -> float:
    """The bytes of one chunk of positions: log-probabilities, their gradient and that of the logits, in float32."""
    positions = min(batch.supervised, max(1, CHUNK_LOGITS // config.vocab_size))
    return positions * config.vocab_size * 12.0


def _frozen_bytes(config: Owl2Config, parameters: Parameters, shape: Placement) -> float:
    text, total = config.text_config, 0.0
    for part, count in parameters.all.items():
        frozen = count - parameters.trained[part]
        packed = 0
        if shape.int4 and part in DECODER_PARTS and not parameters.trained[part]:
            sizes = projection_sizes(text).items()
            own = [fan_in * fan_out for name, (fan_in, fan_out) in sizes if part_of_projection(text, name) == part]
            packed = text.num_hidden_layers * sum(own)
        share = shape.tensor if part in DECODER_PARTS else 1
        total += ((frozen - packed) * shape.compute_bytes + packed * BYTES_PER_WEIGHT) / share
    return total
