"""Floating point operations of one training sample, from sizes alone (no model is built).

The matrix products are counted: projections, attention (causal in the decoder: only the half that a token may see),
and the head where a token is supervised. A multiplication with its addition is two operations; the backward pass of a
product costs as much again for the gradient of its input, where anything before it trains, and once more for the
gradient of its weight, where that trains. Recomputation of checkpointed activations is not counted, nor are norms and
embeddings: the convention of model FLOPs utilization (MFU).

Shapes: T decoder tokens of a sample, Q learnable queries, P vision tokens, D hidden.
"""

from collections.abc import Iterable
from typing import NamedTuple

from owl2.modeling import Owl2AbstractorConfig, Owl2Config, Owl2TextConfig, Owl2VisionConfig
from owl2.modeling.parts import part_of_projection, projection_sizes


class SampleSize(NamedTuple):
    """The size of one training sample.

    Attributes:
        text_tokens: Tokens of text.
        images: Images or frames, each of `image_size` pixels a side.
        supervised_tokens: Tokens with a loss; by default all of the text.
    """

    text_tokens: float
    images: float
    image_size: int
    supervised_tokens: float | None = None


class Lora(NamedTuple):
    """Low-rank adapters: their rank, the names of the decoder's projections that have one, dropout before them."""

    rank: int
    targets: frozenset[str]
    dropout: float = 0.0


class Trained(NamedTuple):
    """The trained parts, as in `owl2.modeling.parts.PARTS`; a projection with an adapter is itself frozen."""

    parts: frozenset[str]
    lora: Lora | None = None


class Product(NamedTuple):
    """A matrix product.

    Attributes:
        component: The component to which it is counted.
        forward: Its operations in a forward pass.
        weight_gradient, input_gradient: Whether a backward pass computes them.
    """

    component: str
    forward: float
    weight_gradient: bool
    input_gradient: bool

    @property
    def training(self) -> float:
        """The operations of forward and backward pass."""
        return self.forward * (1 + self.weight_gradient + self.input_gradient)


class Flops(NamedTuple):
    """The operations of one sample, by component."""

    forward: dict[str, float]
    training: dict[str, float]

    @property
    def total(self) -> float:
        """The operations of forward and backward pass together."""
        return sum(self.training.values())

    @property
    def if_all_trained(self) -> float:
        """Three times the forward pass: the cost if the gradients of frozen weights were computed too."""
        return 3 * sum(self.forward.values())


def sample_flops(config: Owl2Config, sample: SampleSize, trained: Trained) -> Flops:
    """The operations of one sample in a stage that trains some parts."""
    products = sample_products(config, sample, trained)
    names = list(dict.fromkeys(product.component for product in products))
    return Flops(
        {name: sum(product.forward for product in products if product.component == name) for name in names},
        {name: sum(product.training for product in products if product.component == name) for name in names},
    )


def sample_products(config: Owl2Config, sample: SampleSize, trained: Trained) -> list[Product]:
    """Every matrix product of one sample."""
    vision, abstractor, text = config.vision_config, config.abstractor_config, config.text_config
    learns_vision = "vision_encoder" in trained.parts
    learns_abstractor = "abstractor" in trained.parts
    vision_rows = sample.images * config.tokens_per_image
    supervised = sample.text_tokens if sample.supervised_tokens is None else sample.supervised_tokens
    products = _times(sample.images, vision_products(vision, sample.image_size, learns_vision))
    tokens = vision_tokens(vision, sample.image_size)
    if config.connector == "mlp":
        connector = mlp_products(config, tokens - int(vision.use_cls_token), learns_abstractor, learns_vision)
    else:
        connector = abstractor_products(abstractor, text.hidden_size, tokens, learns_abstractor, learns_vision)
    products += _times(sample.images, connector)
    before = learns_vision or learns_abstractor or "embeddings" in trained.parts
    products += decoder_products(text, sample.text_tokens, vision_rows, trained, before)
    head = 2 * supervised * text.hidden_size * text.vocab_size
    reached = before or bool(trained.parts) or trained.lora is not None
    return [*products, Product("head", head, "embeddings" in trained.parts, reached)]


def vision_tokens(config: Owl2VisionConfig, image_size: int) -> int:
    """The number of tokens of the vision encoder for one image."""
    return (image_size // config.patch_size) ** 2 + int(config.use_cls_token)


def vision_products(config: Owl2VisionConfig, image_size: int, trains: bool) -> list[Product]:
    """The products of one image in the vision encoder."""
    tokens, hidden = vision_tokens(config, image_size), config.hidden_size
    patches = tokens - int(config.use_cls_token)
    embedding = 2 * patches * config.num_channels * config.patch_size**2 * hidden
    layer = 2 * tokens * (4 * hidden**2 + 2 * hidden * config.intermediate_size)
    attention = 4 * tokens**2 * hidden
    name = "vision_encoder"
    return [
        Product(name, embedding, trains, False),
        Product(name, config.num_hidden_layers * layer, trains, trains),
        Product(name, config.num_hidden_layers * attention, trains, trains),
    ]


def abstractor_products(
    config: Owl2AbstractorConfig, output_size: int, tokens: int, trains: bool, learns_vision: bool
) -> list[Product]:
    """The products of one image of `tokens` in the visual abstractor and the projection after it (eq. 1-2)."""
    queries, hidden = config.num_learnable_queries, config.hidden_size
    context = queries + tokens  # keys and values are those of queries and patches together
    weights = 2 * queries * (2 * hidden**2 + 3 * hidden * config.intermediate_size) + 4 * context * hidden**2
    attention = 4 * queries * context * hidden
    name, passes = "abstractor", trains or learns_vision
    return [
        Product(name, config.num_hidden_layers * weights, trains, passes),
        Product(name, config.num_hidden_layers * attention, passes, passes),
        Product(name, 2 * queries * hidden * output_size, trains, passes),
    ]


def mlp_products(config: Owl2Config, patches: int, trains: bool, learns_vision: bool) -> list[Product]:
    """The products of one image of `patches` in an MLP connector."""
    hidden, wide = config.vision_config.hidden_size, config.text_config.hidden_size
    return [
        Product("abstractor", 2 * patches * hidden * wide, trains, learns_vision),
        Product("abstractor", 2 * patches * wide**2, trains, trains or learns_vision),
    ]


def decoder_products(
    config: Owl2TextConfig, text_rows: float, vision_rows: float, trained: Trained, learns_before: bool
) -> list[Product]:
    """The products of one sample in the decoder's layers, where attention does not cross samples.

    Args:
        learns_before: Whether anything in front of the decoder trains, so that its input needs a gradient.
    """
    norms = {"decoder_vision", "decoder_text"} if "norm" in config.modality_adaptive else {"decoder_shared"}
    first_input = learns_before or bool(norms & trained.parts)
    inside = (
        first_input
        or trained.lora is not None
        or bool(trained.parts & {"decoder_shared", "decoder_text", "decoder_vision"})
    )
    first = _layer_products(config, text_rows, vision_rows, trained, first_input, inside)
    others = _layer_products(config, text_rows, vision_rows, trained, inside, inside)
    return first + _times(config.num_hidden_layers - 1, others)


def _layer_products(
    config: Owl2TextConfig, text_rows: float, vision_rows: float, trained: Trained, at_input: bool, inside: bool
) -> list[Product]:
    """The products of one layer; `at_input` and `inside` say that its input and attention's output need gradients."""
    tokens, queries = text_rows + vision_rows, config.num_attention_heads * config.head_dim
    products = []
    for name, (fan_in, fan_out) in projection_sizes(config).items():
        rows = tokens
        if name.startswith("vision_"):
            rows = vision_rows
        elif f"vision_{name}" in projection_sizes(config):
            rows = text_rows
        passes = at_input if name.endswith(("q_proj", "k_proj", "v_proj")) else inside
        adapter = trained.lora if trained.lora is not None and name in trained.lora.targets else None
        learns = adapter is None and part_of_projection(config, name) in trained.parts
        products.append(Product("decoder", 2 * rows * fan_in * fan_out, learns, passes))
        if adapter is not None:
            products.append(Product("lora", 2 * rows * fan_in * adapter.rank, True, passes))
            products.append(Product("lora", 2 * rows * adapter.rank * fan_out, True, True))
    attention = 2 * tokens * (tokens + 1) * queries  # half of 4 T^2: the causal mask
    return [*products, Product("decoder_attention", attention, inside, inside)]


def _times(count: float, products: Iterable[Product]) -> list[Product]:
    return [product._replace(forward=count * product.forward) for product in products]
