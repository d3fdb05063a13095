"""Attention of an answer back on the image (paper, section 4.4), through decoder and visual abstractor.

Shapes: L decoder layers, S sequence, Q queries, grid rows x columns of patches.
"""

from typing import Any, NamedTuple

import torch

from owl2.modeling import Owl2Config, Owl2ForConditionalGeneration


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
    model: Owl2ForConditionalGeneration, inputs: dict[str, Any], position: int = -1, image: int = 0
) -> ImageAttention:
    """Where a position of a prompt looks in one of its images.

    The decoder's attention to each learnable query, mean over layers and heads, is spread over the patches as the
    abstractor's last layer (mean over heads) reads them. The default position, the last of a prompt, is the one that
    predicts the answer.

    Args:
        inputs: a batch of one, as the processor makes it.
        image: which of the prompt's images.

    Raises:
        ValueError: the prompt has no such image.
    """
    config = model.config
    images = inputs["pixel_values"].shape[0] if "pixel_values" in inputs else 0
    if not 0 <= image < images:
        raise ValueError(f"Asked for image {image}, but the prompt has {images}.")
    implementation = config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        outputs = model(**inputs, output_attentions=True)
    finally:
        model.set_attn_implementation(implementation)
    is_vision = _visual_rows(inputs, config)
    decoder = torch.stack([layer[0, :, position].float().mean(0) for layer in outputs.attentions])  # [L, S]
    num_queries = config.abstractor_config.num_learnable_queries
    first = image * config.tokens_per_image
    to_queries = decoder.mean(0)[is_vision][first : first + num_queries]  # [Q]
    abstractor = outputs.abstractor_attentions[-1][image].float().mean(0)  # [Q, Q + T]
    height, width = (side // config.vision_config.patch_size for side in inputs["pixel_values"].shape[-2:])
    on_patches = to_queries @ abstractor[:, -height * width :]  # [rows * columns]
    return ImageAttention((on_patches / on_patches.sum()).view(height, width), decoder[:, is_vision].sum(1))


def _visual_rows(inputs: dict[str, Any], config: Owl2Config) -> torch.Tensor:
    """Where the visual tokens are, [S] bool. The processor marks them; a tokenizer may give them an id of its own."""
    types = inputs.get("mm_token_type_ids")
    return inputs["input_ids"][0] == config.image_token_id if types is None else types[0] != 0
