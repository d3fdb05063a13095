"""A new model from a pretrained language model speaks exactly like that language model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import IMAGE, batch, largest_difference, randomize, sample
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from owl2.checkpoints import initialize
from owl2.modeling import CheckpointError, Owl2ForConditionalGeneration

SIZES = dict(vocab_size=89, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
SIZES |= dict(num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0)
VISION = dict(
    hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4
)
ABSTRACTOR = dict(intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_learnable_queries=3)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
PLAIN = {"rope_type": "default", "rope_theta": 1000.0}


def llama_2() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, "num_key_value_heads": 4}))


def llama_3() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=LLAMA3, rms_norm_eps=1e-5))


def llama_with_biases() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True))


def smollm2() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=PLAIN))


def mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6, head_dim=16))


def mistral_without_window() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None))


def qwen2() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True, rope_parameters=PLAIN))


def qwen3() -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16, rope_parameters=PLAIN))


FAMILIES = [llama_2, llama_3, llama_with_biases, smollm2, mistral, mistral_without_window, qwen2, qwen3]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)


def build(source: Any, **settings: Any) -> Owl2ForConditionalGeneration:
    return initialize(source, vision_config=VISION, abstractor_config=ABSTRACTOR, **settings).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """Saves a random language model and gives its directory and transformers' own reading of it."""

    def save(family: Any) -> tuple[Path, PreTrainedModel]:
        randomize(family(), seed=5).save_pretrained(tmp_path / "language_model")
        return tmp_path / "language_model", AutoModelForCausalLM.from_pretrained(tmp_path / "language_model").eval()

    return save


@every_family
@torch.no_grad()
def test_text_logits_are_the_language_models(family: Any, saved: Any) -> None:
    directory, theirs = saved(family)
    ours = build(directory)
    inputs = batch([sample(ours.config, [40], 1), sample(ours.config, [23], 2)])
    del inputs["pixel_values"]
    kept = inputs["attention_mask"].bool()
    wanted = theirs(**inputs)
    output = ours(**inputs)
    assert wanted.logits.std() > 0.1
    assert largest_difference(output.logits[kept], wanted.logits[kept]) <= 1e-5
    assert output.loss.item() == pytest.approx(wanted.loss.item(), abs=1e-5)


@every_family
def test_greedy_generation_is_the_language_models(family: Any, saved: Any) -> None:
    directory, theirs = saved(family)
    ours = build(directory)
    ids = sample(ours.config, [12], 3)["input_ids"]
    settings = dict(attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, eos_token_id=-1)
    wanted = theirs.generate(ids, **settings)
    assert ours.generate(ids, **settings).tolist() == wanted.tolist()
    assert ours.generate(ids, cache_implementation="static", **settings).tolist() == wanted.tolist()


@every_family
def test_vision_copies_start_equal_to_the_text_weights(family: Any) -> None:
    model = build(randomize(family()), modality_adaptive=("norm", "q", "k", "v"))
    parameters = dict(model.named_parameters())
    copies = {
        name: name.replace("vision_", "") for name in parameters if "language_model" in name and "vision_" in name
    }
    assert len(copies) >= 2 * 5, "two norms, q, k and v of each layer"
    for copy, text in copies.items():
        assert torch.equal(parameters[copy], parameters[text]), copy
        assert parameters[copy].data_ptr() != parameters[text].data_ptr(), "they must be able to part"


@every_family
def test_a_model_started_from_it_is_saved_and_loaded(family: Any, tmp_path: Path) -> None:
    model = build(randomize(family()))
    model.save_pretrained(tmp_path)
    again = Owl2ForConditionalGeneration.from_pretrained(tmp_path).eval()
    inputs = sample(model.config, [5, IMAGE, 6], 1)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id == 2


def test_weights_are_those_of_the_wanted_type() -> None:
    model = build(randomize(llama_2()), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_other_families_are_refused_by_name(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=8)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="gpt2.*llama, mistral, qwen2, qwen3"):
        build(tmp_path)


def test_mixed_full_and_sliding_attention_is_refused() -> None:
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=6, max_window_layers=1)
    with pytest.raises(ValueError, match="sliding"):
        build(Qwen2ForCausalLM(config))


def test_a_language_model_that_lacks_a_weight_is_refused_by_its_name(saved: Any) -> None:
    directory, _ = saved(llama_2)
    weights = load_file(directory / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        build(directory)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="mlp"):
        build(llama_2(), modality_adaptive=("mlp",))


def write_gguf(model: LlamaForCausalLM, file: Path) -> None:
    """As llama.cpp converts a Llama: rows of q and k in the order of its interleaved rotary embedding."""
    gguf = pytest.importorskip("gguf")
    config, writer = model.config, gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    names = [
        ("model.layers.", "blk."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
    ]
    for name, tensor in model.state_dict().items():
        values = tensor.numpy().astype(np.float32)
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:
            by_half = values.reshape(heads, 2, -1, values.shape[-1])
            values = by_half.swapaxes(1, 2).reshape(values.shape)
        for theirs, llama_cpp in names:
            name = name.replace(theirs, llama_cpp)
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def test_a_gguf_file_gives_the_language_models_logits(tmp_path: Path) -> None:
    theirs = randomize(LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=PLAIN))).eval()
    write_gguf(theirs, tmp_path / "tiny.gguf")
    ours = build(tmp_path / "tiny.gguf")
    ids = sample(ours.config, [30], 1)["input_ids"]
    assert largest_difference(ours(ids).logits, theirs(ids).logits) <= 1e-5
    ours.save_pretrained(tmp_path / "saved")
    again = Owl2ForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(ids).logits, ours(ids).logits)


def test_a_gguf_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.gguf"):
        build(tmp_path / "nowhere.gguf")
