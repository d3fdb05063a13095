"""Memory that one layer takes for a micro-batch in training, from sizes alone.

The tensors that autograd keeps follow from the operations of the layers; each counts once. With checkpointing a layer
keeps less, and computes the rest again in the backward pass.

Shapes: R decoder tokens of a micro-batch, D hidden, F intermediate, N images, T vision tokens of one, Q queries.
"""

from typing import Literal, NamedTuple

from owl2.modeling import Owl2Config, Owl2TextConfig, Owl2VisionConfig
from owl2.modeling.parts import part_of_projection, projection_sizes

from .flops import Trained, vision_tokens


class MicroBatch(NamedTuple):
    """The contents of one forward pass on one GPU: decoder tokens (padding included), images, tokens with a loss."""

    tokens: float
    images: float
    image_size: int
    supervised: float


class Placement(NamedTuple):
    """The distribution of a run over the GPUs.

    Attributes:
        shards, tensor: Number of ranks over which trained parameters are sharded, and of those that share every layer.
        sharded: Whether trained weights are float32 shards that are gathered: always but in one process in float32
            (`owl2.training.distributed.parallelize`).
        compute_bytes: Bytes of a number in the precision of the computation.
        accumulates: Whether a step has several micro-batches.
        device_bytes: Memory of the GPU, which decides whether gradients stay whole between micro-batches.
        int4: Whether the decoder's frozen projections are kept in 4 bits.
    """

    shards: int = 1
    tensor: int = 1
    sharded: bool = True
    compute_bytes: int = 2
    accumulates: bool = False
    device_bytes: float = float("inf")
    checkpointing: Literal["none", "selective", "full"] = "none"
    compile: bool = False
    int4: bool = False


class Layer(NamedTuple):
    """The bytes of one layer for one micro-batch.

    Attributes:
        whole: What autograd keeps without checkpointing.
        kept: What it keeps between forward and backward pass with the chosen checkpointing.
        workspace: What its backward pass holds besides `whole`.
        trained: Number of its parameters that train, on one rank of a tensor group.
    """

    whole: float
    kept: float
    workspace: float
    trained: float = 0.0


NOTHING = Layer(0.0, 0.0, 0.0)
"""The memory of a layer that no gradient reaches."""


def decoder_layer(config: Owl2TextConfig, batch: MicroBatch, trained: Trained, shape: Placement) -> Layer:
    """The memory of a layer of the language decoder (eq. 4-8) whose input needs a gradient."""
    sizes, size = projection_sizes(config), shape.compute_bytes
    hidden, wide = config.hidden_size, config.intermediate_size / shape.tensor
    queries = config.num_attention_heads * config.head_dim / shape.tensor
    own_keys = config.num_key_value_heads * config.head_dim / shape.tensor
    # SDPA with a mask takes repeated heads.
    keys = queries if config.num_key_value_heads < config.num_attention_heads else own_keys
    lse = 4 * config.num_attention_heads / shape.tensor
    reading = _reading_projections(config, trained)
    routed = {name for name in sizes if name.startswith("vision_") or f"vision_{name}" in sizes}
    inside = {"q_proj", "k_proj", "v_proj"}
    norms = 2 * (hidden * size + 4)
    inputs = hidden * (bool(reading & (inside - routed)) + bool(reading & routed))
    attention = (2 * queries + 2 * keys) * size + lse
    mlp_input, product = hidden * bool(reading & {"gate_proj", "up_proj"}), wide * ("down_proj" in reading)
    adapters = _adapter_bytes(config, trained, size)
    whole = norms + attention + (inputs + mlp_input + 3 * wide + product) * size + adapters
    kept = whole
    if shape.checkpointing == "full":
        kept = hidden * size
    elif shape.compile:  # norms and element-wise steps are computed again, with "selective" all of the MLP
        kept = norms + attention + (hidden if shape.checkpointing == "selective" else 2 * wide) * size + adapters
    elif shape.checkpointing == "selective":  # input, attention and the projections around it, and those of adapters
        ranks = 0 if trained.lora is None else trained.lora.rank * len(trained.lora.targets & sizes.keys())
        kept = (2 * hidden + 2 * queries + 2 * own_keys + ranks) * size + lse
    # In the MLP's backward pass: gradients of both factors and of their product, and of the residual stream.
    workspace = (3 * wide - product + hidden) * size
    return Layer(batch.tokens * whole, batch.tokens * kept, batch.tokens * workspace)


def _reading_projections(config: Owl2TextConfig, trained: Trained) -> set[str]:
    """The projections of a decoder layer that need their input again: to train, or for an adapter without dropout."""
    lora, sizes = trained.lora, projection_sizes(config)
    adapted = set() if lora is None else lora.targets & sizes.keys()
    learning = {name for name in sizes if part_of_projection(config, name) in trained.parts} - adapted
    return learning if lora is None or lora.dropout > 0 else learning | adapted


def _adapter_bytes(config: Owl2TextConfig, trained: Trained, size: int) -> float:
    """The bytes that the adapters of a layer keep for each token."""
    lora, sizes = trained.lora, projection_sizes(config)
    if lora is None:
        return 0.0
    adapted = lora.targets & sizes.keys()
    kept = lora.rank * size * len(adapted)
    if lora.dropout > 0:  # each keeps what dropout left of its input, and the mask
        kept += sum(sizes[name][0] * (size + 1) for name in adapted)
    return kept


def vision_layer(config: Owl2VisionConfig, batch: MicroBatch, trains: bool, shape: Placement) -> Layer:
    """The memory of a layer of the vision encoder."""
    if not trains:
        return NOTHING
    size, hidden, wide = shape.compute_bytes, config.hidden_size, config.intermediate_size
    tokens = batch.images * vision_tokens(config, batch.image_size)
    lse, statistics = 4 * config.num_attention_heads, 16
    of_activation = 2 if config.hidden_act == "quick_gelu" else 1  # x sigmoid(1.702 x) keeps both factors
    whole = (8 * hidden + (of_activation + 1) * wide) * size + lse + statistics
    kept: float = whole
    if shape.checkpointing == "full":
        kept = hidden * size
    elif shape.compile:
        kept = (6 * hidden + (hidden if shape.checkpointing == "selective" else wide)) * size + lse + statistics
    elif shape.checkpointing == "selective":
        kept = 6 * hidden * size + lse
    return Layer(tokens * whole, tokens * kept, tokens * ((3 - 1) * wide + hidden) * size)


def abstractor_layer(
    config: Owl2Config, batch: MicroBatch, trains: bool, learns_vision: bool, shape: Placement
) -> Layer:
    """The memory of a layer of the visual abstractor (eq. 1-2)."""
    if not (trains or learns_vision):
        return NOTHING
    abstractor, size = config.abstractor_config, shape.compute_bytes
    hidden, wide, queries = abstractor.hidden_size, abstractor.intermediate_size, abstractor.num_learnable_queries
    context = queries + vision_tokens(config.vision_config, batch.image_size)
    keys = (4 if trains else 2) * context * hidden  # keys, values and, where their weights train, what they read
    rows = (6 if trains else 4) * queries * hidden + (5 if trains else 4) * queries * wide
    kept = whole = batch.images * (keys + rows) * size
    if shape.checkpointing == "full":
        kept = batch.images * queries * hidden * size
    elif shape.checkpointing == "selective" and shape.compile:
        kept = batch.images * (keys + 6 * queries * hidden) * size
    elif shape.checkpointing == "selective":
        kept = batch.images * (4 * queries + 2 * context) * hidden * size
    return Layer(whole, kept, batch.images * (2 * context * hidden + queries * wide) * size)


def mlp_layer(config: Owl2Config, batch: MicroBatch, trains: bool, learns_vision: bool, shape: Placement) -> Layer:
    """The memory of the MLP connector, which no checkpointing computes again."""
    if not (trains or learns_vision):
        return NOTHING
    size, wide = shape.compute_bytes, config.text_config.hidden_size
    rows = batch.images * config.tokens_per_image
    read = config.vision_config.hidden_size + wide if trains else 0  # what the two layers read, for their weights
    kept = rows * (read + wide) * size  # and what GELU reads
    return Layer(kept, kept, rows * wide * size)
