"""Adapters: what trains beside them, folders that PEFT reads too, merged equals unmerged, a base in 4 bits."""

import json
from pathlib import Path

import pytest
import torch
from helpers import IMAGE, randomize, sample, tiny_config, tiny_model
from training.tiny_adapters import VISION, adapted, logits, step

from owl2 import Owl2ForConditionalGeneration
from owl2.checkpoints.adapters import load_adapter, merge_adapters
from owl2.modeling.parts import PARTS, part_of, plain_name
from owl2.training.adapters.lora import apply_lora, default_targets, save_adapter
from owl2.training.stages import select_trainable

peft = pytest.importorskip("peft")


TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


# Supplement, Table 1: the language model frozen, tuned with LoRA, and in full; each with and without the module.
@pytest.mark.parametrize("modality_adaptive", [(), ("norm", "k", "v")], ids=["without MAM", "with MAM"])
@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_exactly_what_a_row_of_table_1_tunes_changes_in_a_step(tuning: str, modality_adaptive: tuple[str, ...]) -> None:
    model = tiny_model(tiny_config(modality_adaptive=modality_adaptive))
    own = ("decoder_vision",) if modality_adaptive else ()
    parts = PARTS if tuning == "full" else (*VISION, *own)
    select_trainable(model, parts)
    if tuning == "lora":
        apply_lora(model, rank=4, alpha=8)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    step(model, 2)  # the first step of B = 0 leaves A as it is

    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    expected = {name for name in before if ".lora_" in name or part_of(name, modality_adaptive) in parts}
    # Attention does not depend on a bias of its keys: its gradient is zero but for rounding.
    assert changed <= expected and {name for name in expected - changed if not name.endswith("k_proj.bias")} == set()
    adapters = {plain_name(name).split(".lora_")[0].rpartition(".")[2] for name in before if ".lora_" in name}
    assert adapters == (set(TARGETS) if tuning == "lora" else set())


def test_a_projection_with_an_adapter_is_itself_frozen() -> None:
    model = tiny_model()
    select_trainable(model, ("decoder_vision",))
    apply_lora(model, rank=2, alpha=4, targets=["vision_k_proj"])
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters() if ".layers.0." in name}
    layer = "model.language_model.layers.0."
    assert not flags[f"{layer}self_attn.vision_k_proj.base_layer.weight"]
    assert flags[f"{layer}self_attn.vision_v_proj.weight"] and flags[f"{layer}input_layernorm.vision_weight"]
    assert flags[f"{layer}self_attn.vision_k_proj.lora_A.default.weight"]


def test_an_adapter_starts_as_the_model_without_it() -> None:
    model = tiny_model()
    expected = logits(model)
    count = apply_lora(model, rank=4, alpha=8)
    torch.testing.assert_close(logits(model), expected)
    sizes = {"q": (64, 64), "k": (64, 32), "v": (64, 32), "o": (64, 64), "gate": (64, 80), "up": (64, 80)}
    assert count == 2 * 4 * (sum(sum(size) for size in sizes.values()) + 80 + 64)


def test_the_folder_holds_everything_that_trained(tmp_path: Path) -> None:
    model = adapted()
    save_adapter(model, tmp_path, base="DIR")
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    again = load_adapter(tiny_model(), tmp_path)
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)
    assert (logits(model) - logits(tiny_model())).abs().max() > 0.01
    assert not any(".lora_" in name and parameter.requires_grad for name, parameter in again.named_parameters())


def test_peft_reads_the_folder_by_itself(tmp_path: Path) -> None:
    model = adapted()
    save_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(tiny_model(), tmp_path)
    torch.testing.assert_close(logits(theirs), logits(model))
    torch.testing.assert_close(logits(theirs.merge_and_unload()), logits(model), rtol=1e-4, atol=1e-5)


def test_we_read_a_folder_that_peft_wrote(tmp_path: Path) -> None:
    base = tiny_model()
    targets = r".*language_model\.layers.*\.(q_proj|vision_v_proj|down_proj)"
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, modules_to_save=["abstractor"])
    theirs = peft.get_peft_model(base, config)
    randomize(theirs, seed=3)
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(tiny_model(), tmp_path)
    for name, parameter in ours.named_parameters():  # randomize changed the base too
        if ".lora_" not in name and "abstractor" not in name:
            parameter.data.copy_(theirs.get_parameter(f"base_model.model.{name}"))
    torch.testing.assert_close(logits(ours), logits(theirs))


def test_training_goes_on_from_a_folder_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    model = adapted()
    save_adapter(model, tmp_path)
    again = tiny_model()
    select_trainable(again, (*VISION, "decoder_vision"))
    load_adapter(again, tmp_path, trainable=True)
    assert step(again, 3) == step(model, 3)


def test_merged_equals_unmerged_in_logits_and_greedy_generation(tmp_path: Path) -> None:
    model = adapted()
    prompt = sample(model.config, [3, IMAGE, 5], 4)
    expected, tokens = logits(model), model.generate(**prompt, max_new_tokens=12, do_sample=False)
    merged = merge_adapters(model)
    assert set(dict(merged.named_parameters())) == set(dict(tiny_model().named_parameters()))
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(merged.generate(**prompt, max_new_tokens=12, do_sample=False), tokens)
    merged.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(Owl2ForConditionalGeneration.from_pretrained(tmp_path)), logits(merged))


def test_tied_embeddings_that_train_are_kept_once_and_stay_tied(tmp_path: Path) -> None:
    config = tiny_config(tie_word_embeddings=True)
    model = tiny_model(config)
    select_trainable(model, ("embeddings",))
    apply_lora(model, rank=2, alpha=2)
    step(model, 2)
    save_adapter(model, tmp_path)
    again = merge_adapters(load_adapter(tiny_model(tiny_config(tie_word_embeddings=True)), tmp_path))
    assert again.lm_head.weight is again.model.language_model.embed_tokens.weight
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-4, atol=1e-5)


def test_an_adapter_of_another_resolution_brings_its_positions(tmp_path: Path) -> None:
    """Stage 2 trains at 448 px on top of a model of 224 px."""
    model = tiny_model()
    model.set_image_size(24)
    select_trainable(model, VISION)
    apply_lora(model, rank=2, alpha=4)
    step(model, 2)
    save_adapter(model, tmp_path)
    again = load_adapter(tiny_model(), tmp_path)
    assert again.config.vision_config.image_size == 24
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)


def test_another_base_model_is_refused_with_the_shapes_that_differ(tmp_path: Path) -> None:
    save_adapter(adapted(), tmp_path, base="models/one")
    other = tiny_model(tiny_config(intermediate_size=96))
    with pytest.raises(ValueError, match=r"\[80, 4\], in the model \[96, 4\].*made for models/one"):
        load_adapter(other, tmp_path)
    without = tiny_model(tiny_config(modality_adaptive=()))
    with pytest.raises(ValueError, match="vision_k_proj.* is not in the model"):
        load_adapter(without, tmp_path)


def test_damaged_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not an adapter folder: it has no adapter_config.json"):
        load_adapter(tiny_model(), tmp_path)
    save_adapter(adapted(), tmp_path)
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:2000])
    with pytest.raises(ValueError, match="adapter_model.safetensors cannot be read"):
        load_adapter(tiny_model(), tmp_path)
    weights.write_bytes(whole)
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "IA3"}))
    with pytest.raises(ValueError, match="'IA3', not LORA"):
        load_adapter(tiny_model(), tmp_path)


def test_wrong_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="qproj.*did you mean q_proj"):
        apply_lora(tiny_model(), rank=2, alpha=4, targets=["qproj"])
    with pytest.raises(ValueError, match="vision_k_proj in this model"):
        apply_lora(tiny_model(tiny_config(modality_adaptive=())), rank=2, alpha=4, targets=["vision_k_proj"])
    with pytest.raises(ValueError, match="rank of LoRA is 0"):
        apply_lora(tiny_model(), rank=0, alpha=4)
    with pytest.raises(ValueError, match="no adapters in the model"):
        save_adapter(tiny_model(), Path("unused"))
    model = adapted()
    with pytest.raises(ValueError, match="has adapters already"):
        load_adapter(model, Path("unused"))


def test_the_default_targets_are_those_of_the_language_model() -> None:
    assert set(default_targets(tiny_config().text_config)) == set(TARGETS)
