"""The language model inside an mPLUG-Owl2, taken out to begin a new one."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from owl2.checkpoints import initialize, load_language_model

VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 16,
    "patch_size": 8,
}
ABSTRACTOR = {"intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_learnable_queries": 2}
SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama(**settings: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **settings)).eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("modality_adaptive", [("norm", "q", "k", "v"), ()])
def test_what_comes_out_is_the_language_model_that_went_in(
    tied: bool, modality_adaptive: tuple[str, ...], tmp_path: Path
) -> None:
    source = llama(tie_word_embeddings=tied)
    model = initialize(source, vision_config=VISION, abstractor_config=ABSTRACTOR, modality_adaptive=modality_adaptive)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "vision_" in name:
                weight.add_(1.0)  # as if stage 1 had trained it
    model.save_pretrained(tmp_path)
    found = load_language_model(tmp_path).eval()
    tokens = torch.arange(18).view(2, 9)
    with torch.no_grad():
        torch.testing.assert_close(found(tokens).logits, source(tokens).logits, rtol=0, atol=0)


def test_a_decoder_that_is_no_llama_is_refused(tmp_path: Path) -> None:
    source = llama(attention_bias=True)
    initialize(source, vision_config=VISION, abstractor_config=ABSTRACTOR).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="attention_bias"):
        load_language_model(tmp_path)
