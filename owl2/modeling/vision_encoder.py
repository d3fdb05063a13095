"""Vision encoder: CLIP ViT (paper, section 3.2), at any resolution.

Shapes: N images, P patches, T = P (+ 1 with a class token) tokens, Dv hidden.
"""

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import MultiheadAttention
from .configuration import Owl2VisionConfig
from .positions import interpolate_positions
from .pretrained import Owl2PreTrainedModel


class Owl2VisionMLP(nn.Module):
    def __init__(self, config: Owl2VisionConfig) -> None:
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class Owl2VisionLayer(GradientCheckpointingLayer):
    def __init__(self, config: Owl2VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = MultiheadAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Owl2VisionMLP(config)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        normalized = self.layer_norm1(hidden_states)
        hidden_states = hidden_states + self.self_attn(normalized, normalized, normalized, **kwargs)[0]
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class Owl2VisionEncoder(Owl2PreTrainedModel):
    """Encodes images [N, 3, H, W] to tokens [N, T, Dv], the class token (if any) first, then the patches row by row."""

    config: Owl2VisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["Owl2VisionLayer"]
    _can_record_outputs = {"hidden_states": Owl2VisionLayer, "attentions": MultiheadAttention}

    def __init__(self, config: Owl2VisionConfig) -> None:
        super().__init__(config)
        patch = config.patch_size
        self.num_prefix = int(config.use_cls_token)
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=patch, stride=patch, bias=False
        )
        self.class_embedding = nn.Parameter(torch.zeros(config.hidden_size)) if config.use_cls_token else None
        self.position_embedding = nn.Parameter(
            torch.zeros(self.num_prefix + config.position_grid_size**2, config.hidden_size)
        )
        self.pre_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(Owl2VisionLayer(config) for _ in range(config.num_hidden_layers))
        self.post_layernorm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.use_post_layernorm else nn.Identity()
        )
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The module whose output needs gradients where layers are recomputed and only adapters train."""
        return self.patch_embedding

    def embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Patch, class and position embeddings after the first norm: [N, T, Dv].

        Raises:
            ValueError: The sides of the images are not multiples of the patch size.
        """
        height, width = pixel_values.shape[-2:]
        patch = self.config.patch_size
        if height % patch != 0 or width % patch != 0:
            raise ValueError(f"images are {height} x {width} pixels, but both sides must be multiples of {patch}")
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))  # [N, Dv, rows, columns]
        grid = (patches.shape[2], patches.shape[3])
        tokens = patches.flatten(2).transpose(1, 2)  # [N, P, Dv]
        if self.class_embedding is not None:
            tokens = torch.cat([self.class_embedding.expand(tokens.shape[0], 1, -1), tokens], dim=1)  # [N, T, Dv]
        return self.pre_layernorm(tokens + interpolate_positions(self.position_embedding, grid, self.num_prefix))

    @merge_with_config_defaults
    @capture_outputs
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        hidden_states = self.embed(pixel_values)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return BaseModelOutput(last_hidden_state=self.post_layernorm(hidden_states))

    @torch.no_grad()
    def set_image_size(self, image_size: int) -> None:
        """Resizes the learned positions permanently, as between the paper's stages (224 to 448 px, section 4.1)."""
        patch = self.config.patch_size
        if image_size % patch != 0:
            raise ValueError(f"image_size {image_size} is not a multiple of the patch size {patch}")
        grid = image_size // patch
        resized = interpolate_positions(self.position_embedding, (grid, grid), self.num_prefix)
        self.position_embedding = nn.Parameter(resized.clone(), requires_grad=self.position_embedding.requires_grad)
        self.config.image_size, self.config.position_grid_size = image_size, grid
