"""Visual abstractor: learnable queries that compress a picture (paper, section 3.2, eq. 1-2).

Shapes: N images, T vision tokens, Q learnable queries, Dv hidden, D hidden of the decoder.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import MultiheadAttention
from .configuration import Owl2AbstractorConfig
from .positions import sincos_grid_positions, sincos_positions
from .pretrained import Owl2PreTrainedModel

ATTENTION_NORM_EPS = 1e-5
"""The epsilon of the three norms around attention; only the norm inside SwiGLU follows the configuration."""


class Owl2AbstractorMLP(nn.Module):
    """SwiGLU (eq. 2) with a norm before the last projection."""

    def __init__(self, config: Owl2AbstractorConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.inner_norm = nn.LayerNorm(config.intermediate_size, eps=config.layer_norm_eps)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gated = F.silu(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)
        return self.down_proj(self.inner_norm(gated))


class Owl2AbstractorLayer(GradientCheckpointingLayer):
    def __init__(self, config: Owl2AbstractorConfig) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(config.hidden_size, eps=ATTENTION_NORM_EPS)
        self.patch_norm = nn.LayerNorm(config.hidden_size, eps=ATTENTION_NORM_EPS)
        self.attention = MultiheadAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=ATTENTION_NORM_EPS)
        self.mlp = Owl2AbstractorMLP(config)

    def forward(
        self,
        queries: torch.Tensor,  # [N, Q, Dv]
        vision_states: torch.Tensor,  # [N, T, Dv]
        query_positions: torch.Tensor,  # [Q, Dv]
        vision_positions: torch.Tensor,  # [T, Dv]
        **kwargs: Any,
    ) -> torch.Tensor:
        """One step of eq. 1 and 2. The residual is the *normalised* query, as in the official code."""
        queries = self.query_norm(queries)
        context = torch.cat([queries, self.patch_norm(vision_states)], dim=1)  # [N, Q + T, Dv]
        positions = torch.cat([query_positions, vision_positions])
        attended = self.attention(queries + query_positions, context + positions, context, **kwargs)[0]
        queries = queries + attended
        return queries + self.mlp(self.mlp_norm(queries))


class Owl2VisualAbstractor(Owl2PreTrainedModel):
    """Compresses vision tokens [N, T, Dv] to Q visual tokens and the end-of-image token, in the decoder's width."""

    config: Owl2AbstractorConfig
    main_input_name = "vision_states"
    input_modalities = ("image",)
    _no_split_modules = ["Owl2AbstractorLayer"]
    _can_record_outputs = {"hidden_states": Owl2AbstractorLayer, "attentions": MultiheadAttention}

    def __init__(self, config: Owl2AbstractorConfig, output_size: int) -> None:
        super().__init__(config)
        self.learnable_queries = nn.Parameter(torch.zeros(config.num_learnable_queries, config.hidden_size))
        self.layers = nn.ModuleList(Owl2AbstractorLayer(config) for _ in range(config.num_hidden_layers))
        self.projection = nn.Linear(config.hidden_size, output_size)
        self.end_of_image = nn.Parameter(torch.zeros(output_size))
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self, vision_states: torch.Tensor, grid: tuple[int, int], num_prefix: int, **kwargs: Any
    ) -> BaseModelOutput:
        """Visual tokens.

        Args:
            vision_states: [N, T, Dv].
            grid: Rows and columns of the patches, for which the fixed positions are computed.
            num_prefix: Tokens in front of the patches (the class token).

        Returns:
            `last_hidden_state` [N, Q + 1, D]; attentions [N, heads, Q, Q + T] with the queries first.
        """
        num_images, hidden_size = vision_states.shape[0], self.config.hidden_size
        device, dtype = vision_states.device, vision_states.dtype
        query_positions = sincos_positions(self.config.num_learnable_queries, hidden_size, device).to(dtype)
        vision_positions = sincos_grid_positions(grid, hidden_size, num_prefix, device).to(dtype)
        queries = self.learnable_queries.expand(num_images, -1, -1)
        for layer in self.layers:
            queries = layer(queries, vision_states, query_positions, vision_positions, **kwargs)
        end_of_image = self.end_of_image.to(queries.dtype).expand(num_images, 1, -1)
        return BaseModelOutput(last_hidden_state=torch.cat([self.projection(queries), end_of_image], dim=1))
