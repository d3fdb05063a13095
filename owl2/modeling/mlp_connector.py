"""MLP connector: every patch becomes a visual token (LLaVA-1.5, arXiv 2310.03744), in place of the visual abstractor.

With it, the effect of the modality-adaptive module can be seen on LLaVA's architecture as well.

Shapes: N images, T vision tokens, P patches, Dv hidden, D hidden of the decoder.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput

from .configuration import Owl2AbstractorConfig
from .pretrained import Owl2PreTrainedModel


class Owl2MLPConnector(Owl2PreTrainedModel):
    """Two linear layers with a GELU between them, patch by patch; there is no class token and no end-of-image token."""

    config: Owl2AbstractorConfig
    main_input_name = "vision_states"
    input_modalities = ("image",)

    def __init__(self, config: Owl2AbstractorConfig, output_size: int) -> None:
        super().__init__(config)
        self.first = nn.Linear(config.hidden_size, output_size)
        self.second = nn.Linear(output_size, output_size)
        self.post_init()

    def forward(
        self, vision_states: torch.Tensor, grid: tuple[int, int], num_prefix: int, **kwargs: Any
    ) -> BaseModelOutput:
        """Visual tokens.

        Args:
            vision_states: [N, T, Dv].
            grid: As in `Owl2VisualAbstractor`; not needed here.
            num_prefix: Tokens in front of the patches, which are left out.

        Returns:
            `last_hidden_state` [N, P, D].
        """
        patches = vision_states[:, num_prefix:]
        return BaseModelOutput(last_hidden_state=self.second(F.gelu(self.first(patches))))
