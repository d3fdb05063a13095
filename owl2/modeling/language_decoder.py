"""Language decoder: a LLaMA-family decoder whose layers are modality-adaptive (paper, section 3.3, eq. 4-8).

Shapes: B batch, S sequence, D hidden, H heads, Hkv key and value heads. Text weights keep LLaMA's names; the vision
copies are `vision_q_proj`, `vision_k_proj`, `vision_v_proj` and `*_layernorm.vision_weight`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import eager_attention
from .compatibility import CACHE, named_cache
from .configuration import Owl2TextConfig
from .hashed_routing import hashed
from .modality_adaptive import (
    LowRankAdapter,
    ModalityAdaptiveRMSNorm,
    ModalityRouting,
    build_routing,
    modality_adaptive_mlp,
    modality_adaptive_projections,
)
from .one_row import fast_one_row_products
from .pretrained import Owl2PreTrainedModel


class Owl2DecoderAttention(nn.Module):
    """Causal attention over both modalities in one space, from queries, keys and values of their own (eq. 5-8)."""

    def __init__(self, config: Owl2TextConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        hidden, bias, separate = config.hidden_size, config.attention_bias, config.modality_adaptive
        queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(hidden, queries, bias=bias)
        self.vision_q_proj = nn.Linear(hidden, queries, bias=bias) if "q" in separate else None
        self.k_proj = nn.Linear(hidden, keys, bias=bias)
        self.vision_k_proj = nn.Linear(hidden, keys, bias=bias) if "k" in separate else None
        self.v_proj = nn.Linear(hidden, keys, bias=bias)
        self.vision_v_proj = nn.Linear(hidden, keys, bias=bias) if "v" in separate else None
        rank = config.kv_adapter_rank
        self.k_adapter = LowRankAdapter(hidden, keys, rank) if rank else None
        self.v_adapter = LowRankAdapter(hidden, keys, rank) if rank else None
        self.o_proj = nn.Linear(queries, hidden, bias=config.attention_output_bias)
        self.q_norm = LlamaRMSNorm(self.head_dim, eps=config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = LlamaRMSNorm(self.head_dim, eps=config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        routing: ModalityRouting | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        projections = [
            (self.q_proj, self.vision_q_proj),  # eq. 5: shared in the paper
            (self.k_proj, self.vision_k_proj),  # eq. 6
            (self.v_proj, self.vision_v_proj),  # eq. 7
        ]
        projected = modality_adaptive_projections(hidden_states, projections, routing)
        if self.k_adapter is not None and self.v_adapter is not None:
            adapted = (projected[1] + self.k_adapter(hidden_states), projected[2] + self.v_adapter(hidden_states))
            projected = [projected[0], *adapted]
        query, key, value = (
            states.view(*hidden_states.shape[:-1], -1, self.head_dim)  # [B, S, heads, head_dim]
            for states in projected
        )
        query, key = self.q_norm(query).transpose(1, 2), self.k_norm(key).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        value = value.transpose(1, 2)
        cache = kwargs.pop(CACHE, None)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx, kwargs=kwargs)  # a paged one also sets arguments
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.config.sliding_window,
            **kwargs,
        )
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights


class Owl2DecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: Owl2TextConfig, layer_idx: int) -> None:
        super().__init__()
        separate = "norm" in config.modality_adaptive
        self.input_layernorm = ModalityAdaptiveRMSNorm(config.hidden_size, config.rms_norm_eps, separate)
        self.self_attn = Owl2DecoderAttention(config, layer_idx)
        self.post_attention_layernorm = ModalityAdaptiveRMSNorm(config.hidden_size, config.rms_norm_eps, separate)
        self.mlp = LlamaMLP(config)
        self.vision_mlp = LlamaMLP(config) if "ffn" in config.modality_adaptive else None

    def forward(
        self, hidden_states: torch.Tensor, routing: ModalityRouting | None = None, **kwargs: Any
    ) -> torch.Tensor:
        normalized = self.input_layernorm(hidden_states, routing)
        hidden_states = hidden_states + self.self_attn(normalized, routing=routing, **kwargs)[0]
        normalized = self.post_attention_layernorm(hidden_states, routing)
        return hidden_states + modality_adaptive_mlp(normalized, self.mlp, self.vision_mlp, routing)


class Owl2LanguageDecoder(Owl2PreTrainedModel):
    """Decoder over text and visual tokens, without the language modelling head."""

    config: Owl2TextConfig
    input_modalities = ("text",)
    _no_split_modules = ["Owl2DecoderLayer"]
    _can_record_outputs = {"hidden_states": Owl2DecoderLayer, "attentions": Owl2DecoderAttention}

    def __init__(self, config: Owl2TextConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Owl2DecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = ModalityAdaptiveRMSNorm(config.hidden_size, config.rms_norm_eps, separate=False)
        self.rotary_emb = LlamaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        is_vision: torch.Tensor | None = None,
        num_vision: int | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        routing_key: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Runs the decoder.

        Args:
            input_ids, inputs_embeds: [B, S] or [B, S, D], exactly one of them.
            attention_mask: [B, past + S], 0 at padding. Positions count the tokens that are not padding.
            position_ids: [B, S]; without an attention mask, each place where they restart begins another packed sample.
            is_vision: [B, S] bool, the modality indicator M (section 3.3); `None` if every token is text.
            num_vision: Number of true entries of `is_vision`, so that the device need not be asked.
            past_key_values, cache: Two names of the same: the keys and values of the tokens read so far.
            routing_key: [B, S] or [B, 1], tells samples apart where tokens are routed by a hash (`sample_keys`).
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        caches = named_cache(past_key_values, cache)
        # Before the cache is made: transformers looks for packed samples only without a cache and an attention mask.
        make_mask = create_causal_mask if self.config.sliding_window is None else create_sliding_window_causal_mask
        causal_mask = make_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **{CACHE: caches.get(CACHE)},
        )
        if position_ids is None:
            past = caches[CACHE].get_seq_length() if CACHE in caches else 0
            position_ids = positions_of_tokens(attention_mask, inputs_embeds, past)
        if use_cache and not caches:
            caches = {CACHE: DynamicCache(config=self.config)}
        if self.config.routing != "modality" and self.config.modality_adaptive:
            is_vision, num_vision = self._hashed(position_ids, is_vision, routing_key), None
        routing = self._route(inputs_embeds, is_vision, num_vision)
        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        with fast_one_row_products(hidden_states):
            for layer in self.layers:
                hidden_states = layer(
                    hidden_states,
                    routing=routing,
                    attention_mask=causal_mask,
                    position_embeddings=position_embeddings,
                    position_ids=position_ids,
                    use_cache=use_cache,
                    **caches,
                    **kwargs,
                )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **{CACHE: caches.get(CACHE)})

    def _hashed(
        self, position_ids: torch.Tensor, is_vision: torch.Tensor | None, routing_key: torch.Tensor | None
    ) -> torch.Tensor | None:
        """A mask of the tokens that a control sends to the copies, not the visual ones, [B, S] bool; `None` if none."""
        if routing_key is None:
            raise ValueError("a model that routes by a hash needs routing_key, which tells samples apart")
        chosen = hashed(routing_key, position_ids, self.config.routing_share, self.config.routing_seed)
        if self.config.routing == "hash":
            return chosen
        return None if is_vision is None else chosen & is_vision

    def _route(
        self, inputs_embeds: torch.Tensor, is_vision: torch.Tensor | None, num_vision: int | None
    ) -> ModalityRouting | None:
        """Routing, or `None` where all is text. Training always routes, so that every rank has the same gradients."""
        if not self.config.modality_adaptive:
            return None
        if is_vision is None:
            if not self.training:
                return None
            is_vision, num_vision = inputs_embeds.new_zeros(inputs_embeds.shape[:2], dtype=torch.bool), 0
        if num_vision is None:
            num_vision = int(is_vision.sum())
        return build_routing(is_vision, num_vision)


def positions_of_tokens(attention_mask: torch.Tensor | None, inputs_embeds: torch.Tensor, past: int) -> torch.Tensor:
    """Positions [B or 1, S] 0, 1, 2, ... of the tokens that are not padding: padding does not change a sample."""
    length = inputs_embeds.shape[1]
    if attention_mask is not None and attention_mask.ndim == 2:
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
    return torch.arange(past, past + length, device=inputs_embeds.device)[None]
