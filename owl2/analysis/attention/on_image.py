"""Attention of a position back on the image (paper, section 4.4), through decoder and visual abstractor.

Shapes: L decoder layers, T tokens, N images, H heads, Q queries, P patches in rows x columns.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from owl2.modeling import Owl2Config, Owl2ForConditionalGeneration

from .recording import base_model, decoder_attention

Through = Literal["last", "rollout"]
"""How the abstractor is followed back: by its last layer alone, or rolled out over all (Abnar and Zuidema, 2020)."""


class ImageAttention(NamedTuple):
    """Attention of one position.

    Attributes:
        on_image: [rows, columns], sums to 1: the share of each patch in what the position reads from the image.
        per_layer: [L] share of its attention that goes to visual tokens in each decoder layer.
    """

    on_image: torch.Tensor
    per_layer: torch.Tensor


@torch.no_grad()
def attention_on_image(
    model: nn.Module,
    inputs: Mapping[str, Any],
    position: int = -1,
    image: int = 0,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    through: Through = "last",
) -> ImageAttention:
    """The attention of a position of a prompt to one of its images.

    The decoder's attention to each learnable query, mean over layers and heads, is spread over the patches as the
    abstractor reads them. The default position, the last of a prompt, is the one that predicts the answer.

    Args:
        inputs: A batch of one, as the processor makes it.
        image: Which of the prompt's images.
        layers, heads: Layers and heads of the decoder; all by default.

    Raises:
        ValueError: The prompt has no such image, or the decoder no such layer or head.
    """
    config = base_model(model).config
    given = inputs.get("pixel_values")
    images = 0 if given is None else given.shape[0]
    if not 0 <= image < images:
        raise ValueError(f"asked for image {image}, but the prompt has {images}")
    decoder = decoder_attention(model, inputs, (position,), layers, heads).weights[:, 0, 0]  # [L, T]
    is_vision = visual_rows(inputs, config)[0].cpu()
    read = patches_read(base_model(model), inputs["pixel_values"][image : image + 1], through)[0]  # [Q, rows, columns]
    on_image = on_patches(decoder.mean(0)[is_vision], read, image, config)
    return ImageAttention(on_image, decoder[:, is_vision].sum(1))


def on_patches(to_visual: torch.Tensor, read: torch.Tensor, image: int, config: Owl2Config) -> torch.Tensor:
    """Attention to the visual tokens, spread over the patches of one image; [rows, columns], sums to 1.

    Args:
        to_visual: [visual tokens] of all images, in their order.
        read: [Q, rows, columns], see `patches_read`.
    """
    first = image * config.tokens_per_image
    weights = to_visual[first : first + read.shape[0]]  # the end of the image has no patch of its own
    found = torch.einsum("q,qrc->rc", weights, read.to(weights))
    return found / found.sum()


@torch.no_grad()
def patches_read(
    model: Owl2ForConditionalGeneration, pixel_values: torch.Tensor, through: Through = "last"
) -> torch.Tensor:
    """What each learnable query reads from the patches, [N, Q, rows, columns], mean over heads.

    With an MLP as connector, every visual token is one patch.

    Args:
        pixel_values: [N, 3, H, W].
        through: "last" takes the attention of the last layer. With "rollout", each layer's attention counts half, and
            what the query held before counts the other half, as its residual connection adds them.
    """
    patch = model.config.vision_config.patch_size
    grid = (pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch)
    if model.config.connector == "mlp":  # a visual token is its patch
        itself = torch.eye(grid[0] * grid[1]).unflatten(-1, grid)
        return itself.expand(pixel_values.shape[0], -1, -1, -1)
    abstractor = model.model.abstractor
    before = abstractor.config._attn_implementation
    abstractor.set_attn_implementation("eager")
    try:
        vision = model.model.vision_tower(pixel_values)
        prefix = model.model.vision_tower.num_prefix
        attentions = abstractor(
            vision.last_hidden_state, grid=grid, num_prefix=prefix, output_attentions=True
        ).attentions
    finally:
        abstractor.set_attn_implementation(before)
    by_layer = [layer.float().mean(1).cpu() for layer in attentions]  # [N, Q, Q + prefix + P]
    found = by_layer[-1] if through == "last" else _rolled_out(by_layer)
    return found[..., -grid[0] * grid[1] :].unflatten(-1, grid)


def _rolled_out(by_layer: Sequence[torch.Tensor]) -> torch.Tensor:
    """[N, Q, Q + T]: where what the queries hold after the last layer comes from."""
    queries, context = by_layer[0].shape[1], by_layer[0].shape[2]
    origin = torch.eye(queries, context).expand(len(by_layer[0]), -1, -1)  # before the first layer: themselves
    vision = torch.eye(context)[queries:]  # vision tokens are the same in every layer
    for attention in by_layer:
        read = attention[..., :queries] @ origin + attention[..., queries:] @ vision
        origin = 0.5 * origin + 0.5 * read
    return origin


def visual_rows(inputs: Mapping[str, Any], config: Owl2Config) -> torch.Tensor:
    """A mask of the visual tokens, [B, T] bool. The processor marks them: a tokenizer may give them another id."""
    types = inputs.get("mm_token_type_ids")
    return inputs["input_ids"] == config.image_token_id if types is None else types != 0
