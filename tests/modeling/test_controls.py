"""Controls of the modality-adaptive module: routing by a hash, adapters for all tokens, a separate feed-forward."""

import copy
from typing import Any

import pytest
import torch
from helpers import IMAGE, batch, sample, tiny_config, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from owl2.checkpoints import initialize, save_official
from owl2.modeling.hashed_routing import hashed, sample_keys
from owl2.modeling.parts import part_of

KINDS = ("norm", "k", "v")


def controlled(**settings: Any):
    return tiny_model(tiny_config(**settings))


def reference_mix(value: int) -> int:
    """SplitMix64's finalizer in Python's own whole numbers (Steele et al. 2014)."""
    mask = (1 << 64) - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def test_the_hash_is_splitmix64_of_key_seed_and_position():
    keys, positions = torch.tensor([[5], [2**62 + 7]]), torch.arange(40)[None]
    found = hashed(keys, positions, share=0.3, seed=11)
    mask = (1 << 64) - 1
    for row, key in enumerate(keys[:, 0].tolist()):
        for position in range(40):
            mixed = reference_mix((key + 11 * 0x2545F4914F6CDD1D) & mask)
            drawn = reference_mix((mixed + position * 0x9E3779B97F4A7C15) & mask) >> 11
            assert bool(found[row, position]) == (drawn < int(0.3 * 2**53))


def test_as_many_tokens_are_chosen_as_the_share_says_and_others_for_another_sample_or_seed():
    ids = torch.randint(3, 97, (200, 50), generator=torch.Generator().manual_seed(0))
    keys, positions = sample_keys(ids), torch.arange(50)[None]
    found = hashed(keys, positions, 0.25, 0)
    assert found.float().mean() == pytest.approx(0.25, abs=0.02)
    assert found.float().mean(0).std() < 0.05  # no position is preferred
    same = (found == hashed(keys, positions, 0.25, 1)).float().mean()
    assert same == pytest.approx(0.25**2 + 0.75**2, abs=0.03)  # independent


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_sample_is_routed_as_alone_in_a_padded_batch_and_in_a_packed_row(side):
    model = controlled(routing="hash", routing_share=0.4)
    kinds: list[list[int | str]] = [[4, IMAGE, 2], [3], [IMAGE, 1, IMAGE, 6]]
    samples = [sample(model.config, parts, seed) for seed, parts in enumerate(kinds)]
    together = batch(samples, side)
    with torch.no_grad():
        alone = [model(**each).logits[0] for each in samples]
        padded = model(**{key: value for key, value in together.items() if key != "labels"}).logits
        ids = torch.cat([each["input_ids"] for each in samples], dim=1)
        positions = torch.cat([torch.arange(each["input_ids"].shape[1])[None] for each in samples], dim=1)
        packed = model(input_ids=ids, position_ids=positions, pixel_values=together["pixel_values"]).logits[0]
    real = together["attention_mask"].bool()
    torch.testing.assert_close(padded[real], torch.cat(alone), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_generated_tokens_are_routed_with_and_without_a_cache_alike():
    model = controlled(routing="hash", routing_share=0.5)
    inputs = sample(model.config, [3, IMAGE, 4], seed=0)
    settings = dict(max_new_tokens=12, do_sample=False, return_dict_in_generate=True, output_logits=True)
    cached = model.generate(**inputs, use_cache=True, **settings)
    plain = model.generate(**inputs, use_cache=False, **settings)
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(plain.logits), atol=1e-4, rtol=1e-4)
    whole = {**inputs, "input_ids": cached.sequences, "routing_key": sample_keys(inputs["input_ids"])[:, -1:]}
    with torch.no_grad():
        logits = model(**whole).logits[0, -13:-1]
    torch.testing.assert_close(torch.stack(cached.logits)[:, 0], logits, atol=1e-4, rtol=1e-4)
    twice = model.generate(**inputs, num_beams=2, max_new_tokens=4, do_sample=False)
    assert twice.shape[0] == 1  # beams keep the key of their sample


def test_decoding_really_goes_through_the_copies():
    model = controlled(routing="hash", routing_share=0.5)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for layer in other.model.language_model.layers:
            layer.self_attn.vision_v_proj.weight.mul_(-1)
    inputs = sample(model.config, [6], seed=1)  # text alone: the paper's module would not use them
    settings = dict(max_new_tokens=6, do_sample=False, return_dict_in_generate=True, output_logits=True)
    one, two = (torch.stack(each.generate(**inputs, **settings).logits) for each in (model, other))
    assert (one - two).abs().max() > 1e-3


def test_a_step_over_a_cache_without_its_samples_key_is_refused():
    model = controlled(routing="hash")
    inputs = sample(model.config, [5], seed=0)
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        mask = torch.ones(1, 6, dtype=torch.long)
        with pytest.raises(ValueError, match="input_ids of whole samples, or their routing_key"):
            model(input_ids=inputs["input_ids"][:, :1], attention_mask=mask, past_key_values=cache)


def test_hashed_vision_leaves_text_alone():
    model, module = controlled(routing="hash_vision", routing_share=0.5), controlled()
    module.load_state_dict(model.state_dict())
    text = sample(model.config, [7], seed=0)
    picture = sample(model.config, [3, IMAGE, 2], seed=0)
    with torch.no_grad():
        torch.testing.assert_close(model(**text).logits, module(**text).logits)
        assert (model(**picture).logits - module(**picture).logits).abs().max() > 1e-3


def test_adapters_begin_as_nothing_and_are_a_part_of_their_own():
    language_model = LlamaForCausalLM(
        LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    )
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    abstractor = {"intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_learnable_queries": 2}
    sizes: dict[str, Any] = {"vision_config": vision, "abstractor_config": abstractor}
    torch.manual_seed(0)
    plain = initialize(language_model, **sizes, modality_adaptive=())
    torch.manual_seed(0)
    wide = initialize(language_model, **sizes, modality_adaptive=(), controls={"kv_adapter_rank": 5})
    torch.manual_seed(0)
    ffn = initialize(language_model, **sizes, modality_adaptive=("ffn",))
    inputs = sample(plain.config, [3, IMAGE, 2], seed=0)
    with torch.no_grad():
        expected = plain(**inputs).logits  # shared parts begin alike in every arm
        torch.testing.assert_close(wide(**inputs).logits, expected)
        torch.testing.assert_close(ffn(**inputs).logits, expected)
    of_wide = {part_of(name, ()) for name, _ in wide.named_parameters() if "adapter" in name}
    assert of_wide == {"decoder_vision"}
    added = sum(p.numel() for p in wide.parameters()) - sum(p.numel() for p in plain.parameters())
    assert added == 2 * 2 * 5 * (32 + 32)  # layers, keys and values, rank x widths
    assert part_of("model.language_model.layers.0.mlp.up_proj.weight", ("ffn",)) == "decoder_text"
    assert part_of("model.language_model.layers.0.vision_mlp.up_proj.weight", ("ffn",)) == "decoder_vision"


def test_a_separate_feed_forward_sees_only_its_own_rows():
    model = controlled(modality_adaptive=("ffn",))
    inputs = sample(model.config, [3, IMAGE, 4], seed=0)
    rows = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    layer = model.model.language_model.layers[0]
    states = torch.randn(1, inputs["input_ids"].shape[1], 64)
    is_vision = inputs["input_ids"] == model.config.image_token_id
    routing = model.model.language_model._route(states, is_vision, None)
    from owl2.modeling.modality_adaptive import modality_adaptive_mlp

    with torch.no_grad():
        found = modality_adaptive_mlp(states, layer.mlp, layer.vision_mlp, routing)
        expected = layer.mlp(states)
        expected[:, rows] = layer.vision_mlp(states[:, rows])
    torch.testing.assert_close(found, expected)


def test_controls_survive_saving_and_are_refused_in_the_official_layout(tmp_path):
    model = controlled(routing="hash", routing_share=0.3, routing_seed=4)
    model.save_pretrained(tmp_path / "ours")
    again = type(model).from_pretrained(tmp_path / "ours")
    inputs = sample(model.config, [3, IMAGE, 2], seed=0)
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits)
    with pytest.raises(ValueError, match="no setting for this model's routing"):
        save_official(model, tmp_path / "official")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"routing": "random"}, "routing is 'random', but must be one of modality, hash, hash_vision"),
        ({"routing_share": 1.0}, "routing_share is 1.0, but must be between 0 and 1"),
        ({"kv_adapter_rank": -1}, "kv_adapter_rank is -1"),
        ({"modality_adaptive": ("mlp",)}, "among norm, q, k, v, ffn"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**settings)
