"""The language model inside an mPLUG-Owl2: what its decoder is for text, as a LLaMA of its own."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from owl2.modeling import Owl2ForConditionalGeneration, Owl2TextConfig

_SAME = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings", "rope_parameters", "mlp_bias"),
)


def llama_config(config: Owl2TextConfig) -> LlamaConfig:
    """The configuration of a decoder's text half.

    Raises:
        ValueError: The decoder has layers that LLaMA does not have.
    """
    differing = {
        "qk_norm": config.qk_norm,
        "sliding_window": config.sliding_window,
        "attention_bias": config.attention_bias,
    }
    if found := {name: value for name, value in differing.items() if value}:
        raise ValueError(f"the text half of this model is no LLaMA: {found}")
    values: dict[str, Any] = {name: getattr(config, name) for name in _SAME}
    return LlamaConfig(**values)


@torch.no_grad()
def text_half(model: Owl2ForConditionalGeneration) -> LlamaForCausalLM:
    """A LLaMA with the weights that text goes through; the vision copies stay behind.

    Raises:
        ValueError: The decoder has layers that LLaMA does not have.
    """
    config = model.config.text_config
    assert isinstance(config, Owl2TextConfig), "Owl2Config makes one of what it is given"
    llama = LlamaForCausalLM(llama_config(config)).to(model.dtype)
    decoder = model.model.language_model.state_dict()
    llama.model.load_state_dict({name: weight for name, weight in decoder.items() if "vision_" not in name})
    if not llama.config.tie_word_embeddings:
        llama.lm_head.load_state_dict(model.lm_head.state_dict())
    llama.generation_config = model.generation_config
    return llama
