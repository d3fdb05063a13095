"""owl2's own modules under vLLM: only attention, the embedding and the head are vLLM's.

vLLM flattens the scheduled tokens of all requests to T rows. Before each step its runner calls `embed_input_ids` with
the visual tokens and a mask of where they go; that mask is the modality indicator M (section 3.3), and the `forward`
right after takes it.

Shapes: T tokens of a step, D hidden, H heads, Hkv key and value heads, E their size, N images, Q queries.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers.initialization import no_init_weights
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsMultiModal
from vllm.model_executor.models.utils import AutoWeightsLoader, _merge_multimodal_embeddings, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from owl2.modeling import Owl2Config, Owl2Model
from owl2.modeling.official_checkpoint import official_to_owl2
from owl2.processing.chat_templates import IMAGE_TOKEN, VIDEO_TOKEN

from .processing import Owl2DummyInputsBuilder, Owl2MultiModalProcessor, Owl2ProcessingInfo
from .proven import refuse_unproven

ATTENTION = "owl2_vllm"


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """vLLM's attention in the interface of transformers; the cache, causality and the requests are vLLM's.

    Args:
        query: [1, H, T, E]; key and value [1, Hkv, T, E].

    Returns:
        [1, T, H * E], and no weights.
    """
    rows = [states[0].transpose(0, 1).flatten(1).contiguous() for states in (query, key, value)]  # [T, heads * E]
    return module.attn(*rows)[None], None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, paged_attention)


@MULTIMODAL_REGISTRY.register_processor(
    Owl2MultiModalProcessor, info=Owl2ProcessingInfo, dummy_inputs=Owl2DummyInputsBuilder
)
class Owl2ForConditionalGeneration(nn.Module, SupportsMultiModal):
    """mPLUG-Owl2 for vLLM's runner."""

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        return {"image": IMAGE_TOKEN, "video": VIDEO_TOKEN}[modality]

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        refuse_unproven(vllm_config)
        config: Owl2Config = vllm_config.model_config.hf_config
        self.config, text = config, config.text_config
        text._attn_implementation = ATTENTION
        config.vision_config._attn_implementation = config.abstractor_config._attn_implementation = "sdpa"
        with no_init_weights():
            self.model = Owl2Model(config)
        language = self.model.language_model
        language.embed_tokens = VocabParallelEmbedding(text.vocab_size, text.hidden_size)
        for index, layer in enumerate(language.layers):
            attention: Any = layer.self_attn
            attention.attn = Attention(
                text.num_attention_heads,
                text.head_dim,
                attention.scaling,
                num_kv_heads=text.num_key_value_heads,
                cache_config=vllm_config.cache_config,
                prefix=maybe_prefix(prefix, f"model.language_model.layers.{index}.self_attn.attn"),
            )
        self.lm_head = ParallelLMHead(text.vocab_size, text.hidden_size, prefix=maybe_prefix(prefix, "lm_head"))
        if config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(language.embed_tokens)
        self.logits_processor = LogitsProcessor(text.vocab_size)
        self.eval()
        self._is_vision: torch.Tensor | None = None  # [T] bool, of the step that is being prepared

    def get_language_model(self) -> nn.Module:
        return self.model.language_model

    def embed_multimodal(self, **kwargs: Any) -> MultiModalEmbeddings:
        """Visual tokens of each item: [Q + 1, D] of an image, [frames * (Q + 1), D] of a video."""
        if (pixels := kwargs.get("pixel_values")) is not None:
            return list(self._encode(pixels))
        if (pixels := kwargs.get("pixel_values_videos")) is not None:
            frames = self._encode(pixels).split(kwargs["num_frames"].flatten().tolist())
            return [each.flatten(0, 1) for each in frames]
        return []

    def _encode(self, pixels: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        if not isinstance(pixels, torch.Tensor):
            pixels = torch.cat([each if each.ndim == 4 else each[None] for each in pixels])
        features = self.model.encode_images(pixels).image_hidden_states  # [N, Q + 1, D]
        assert features is not None
        return features

    def embed_input_ids(
        self,
        input_ids: torch.Tensor,
        multimodal_embeddings: MultiModalEmbeddings | None = None,
        *,
        is_multimodal: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings [T, D] of a step, with the visual tokens in their places.

        Args:
            input_ids: [T].
            multimodal_embeddings: The visual tokens of the step, as many as `is_multimodal` has true entries.
            is_multimodal: [T] bool.
        """
        embeddings = self.model.language_model.embed_tokens(input_ids)
        self._is_vision = None
        if is_multimodal is None or not multimodal_embeddings:
            return embeddings
        self._is_vision = is_multimodal
        return _merge_multimodal_embeddings(embeddings, multimodal_embeddings, is_multimodal)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Hidden states [T, D] of a step whose embeddings were made just before.

        `Owl2Model.forward` is not used: it takes a single row for a token that is being written, but the last piece
        of a prompt can be one visual token.
        """
        is_vision, self._is_vision = self._is_vision, None
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed_input_ids(input_ids)
        num_vision = None
        if is_vision is not None:
            num_vision = int(is_vision.sum())
            is_vision = nn.functional.pad(is_vision, (0, len(inputs_embeds) - len(is_vision)))  # rows of padding
            is_vision = is_vision.to(inputs_embeds.device, non_blocking=True)[None]
        output = self.model.language_model(
            inputs_embeds=inputs_embeds[None],
            position_ids=positions[None],
            is_vision=is_vision,
            num_vision=num_vision,
            use_cache=False,
        )
        return output.last_hidden_state[0]

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads weights under our names or the official ones, tensor by tensor; fixed tables are checked.

        Raises:
            CheckpointError: As `official_to_owl2`.
        """
        ours = (pair for name, tensor in weights for pair in official_to_owl2({name: tensor}, self.config).items())
        return AutoWeightsLoader(self).load_weights(ours)
