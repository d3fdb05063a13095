"""The MLP connector in place of the abstractor: against a plain restatement, and from a recipe to its checkpoint."""

import json
import math
from pathlib import Path

import pytest
import torch
from helpers import IMAGE, batch, largest_difference, randomize, sample, tiny_config
from torch.utils.flop_counter import FlopCounterMode
from training.tiny_recipes import recipe_of, run_recipe, write_training
from typer.testing import CliRunner

from owl2 import Owl2Config, Owl2ForConditionalGeneration
from owl2.analysis.attention.on_image import patches_read
from owl2.checkpoints.initialize import initialize
from owl2.checkpoints.loading import load_for_chat
from owl2.cli.main import app
from owl2.modeling.official_checkpoint import official_config
from owl2.training.cost.flops import SampleSize, Trained, sample_flops
from owl2.training.model.build import meta_config, open_stored_model
from owl2.training.stages import select_trainable

MLP = "model.initialize.connector=mlp"


def mlp_config(**text) -> Owl2Config:
    config = tiny_config(**text)
    return Owl2Config(**{**config.to_dict(), "connector": "mlp"})


def mlp_model(**text) -> Owl2ForConditionalGeneration:
    return randomize(Owl2ForConditionalGeneration(mlp_config(**text))).eval()


def test_every_patch_goes_through_two_linear_layers_with_a_gelu_between():
    model = mlp_model()
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        found = model.model.encode_images(pixels).image_hidden_states
        states = model.model.vision_tower(pixels).last_hidden_state[:, 1:]  # without the class token
    weights = dict(model.model.abstractor.named_parameters())
    assert {name: tuple(each.shape) for name, each in weights.items()} == {
        "first.weight": (64, 32),
        "first.bias": (64,),
        "second.weight": (64, 64),
        "second.bias": (64,),
    }
    inner = states @ weights["first.weight"].T + weights["first.bias"]
    inner = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
    torch.testing.assert_close(found, (inner @ weights["second.weight"].T + weights["second.bias"]).detach())
    assert found.shape == (2, 16, 64) and model.config.tokens_per_image == 16  # 4 x 4 patches, no end of the image


def test_a_batch_gives_what_its_samples_give_alone_and_generation_goes_on():
    model = mlp_model()
    samples = [
        sample(model.config, [3, IMAGE, 4], 0),
        sample(model.config, [2], 1),
        sample(model.config, [IMAGE, 1], 2),
    ]
    with torch.no_grad():
        together = model(**{name: value for name, value in batch(samples).items() if name != "labels"}).logits
        for row, each in zip(together, samples, strict=True):
            alone = model(**each).logits[0]
            assert largest_difference(row[: len(alone)], alone) < 1e-4
        output = model.generate(**samples[0], max_new_tokens=3, do_sample=False)
        again = model(input_ids=output, pixel_values=samples[0]["pixel_values"]).logits[0, -4:-1].argmax(-1)
    assert torch.equal(output[0, -3:], again)


def test_images_of_another_size_are_refused_until_the_model_is_set_to_it():
    model = mlp_model()
    ids = torch.full((1, 16), model.config.image_token_id)
    with pytest.raises(ValueError, match=r"images of 24 x 24 pixels, but with the connector 'mlp'.*takes images of 16"):
        model(input_ids=ids, pixel_values=torch.zeros(1, 3, 24, 24))
    model.set_image_size(24)
    assert model.config.tokens_per_image == 36
    assert model.get_image_features(torch.zeros(1, 3, 24, 24)).last_hidden_state.shape == (1, 36, 64)


def test_defaults_and_the_official_layout_keep_the_abstractor(tmp_path):
    assert tiny_config().connector == "abstractor"
    assert not any("abstractor.first" in name for name in Owl2ForConditionalGeneration(tiny_config()).state_dict())
    with pytest.raises(ValueError, match="no setting for this model's connector"):
        official_config(mlp_config(), torch.float32)
    with pytest.raises(ValueError, match="the official layout has the visual abstractor, not the connector 'mlp'"):
        Owl2Config(connector="mlp", visual_config={})
    with pytest.raises(ValueError, match="connector is 'resampler', but must be one of abstractor, mlp"):
        Owl2Config(connector="resampler")


def test_the_map_over_the_image_of_a_visual_token_is_its_patch():
    read = patches_read(mlp_model(), torch.randn(2, 3, 16, 16))
    assert read.shape == (2, 16, 4, 4)
    assert torch.equal(read[1, 6].nonzero(), torch.tensor([[1, 2]])) and float(read[1, 6].sum()) == 1


@pytest.mark.parametrize("parts", [("abstractor",), ("vision_encoder",), ("vision_encoder", "abstractor")])
def test_operations_are_those_that_torch_counts(parts):
    config = mlp_config(hidden_size=64, vocab_size=499)
    size = SampleSize(text_tokens=20, images=1, image_size=16)
    with torch.device("meta"):
        model = Owl2ForConditionalGeneration(config).train()
        pixels, ids = torch.empty(1, 3, 16, 16), torch.empty(1, 20, dtype=torch.long)
        is_vision = torch.empty(1, 36, dtype=torch.bool)
    select_trainable(model, parts)
    with FlopCounterMode(display=False) as counter:
        visual = model.model.encode_images(pixels).image_hidden_states
        embedded = torch.cat([visual, model.get_input_embeddings()(ids)], dim=1)
        hidden = model.model.language_model(
            inputs_embeds=embedded, is_vision=is_vision, num_vision=16, use_cache=False
        ).last_hidden_state
        model.lm_head(hidden[:, -20:]).sum().backward()
    ours = sample_flops(config, size, Trained(frozenset(parts)))
    attention = ours.training["decoder_attention"]  # of half the pairs, and the diagonal
    # The angles of the positions, which older transformers computes by a matrix product, are no work of a layer.
    angles = sum(counter.get_flop_counts().get("Owl2LanguageDecoder.rotary_emb", {}).values())
    assert counter.get_total_flops() - angles == pytest.approx(ours.total - attention + 2 * attention * 36 / 37)


def test_what_arms_share_begins_alike_whatever_the_module():
    from transformers import LlamaConfig, LlamaForCausalLM

    language = LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 8}
    small = {"num_attention_heads": 2, "num_hidden_layers": 1}
    arms = []
    for parts in ((), ("norm", "k", "v")):
        torch.manual_seed(3)
        made = initialize(
            language, vision_config=vision, abstractor_config=small, modality_adaptive=parts, connector="mlp"
        )
        arms.append(
            {name: value for name, value in made.state_dict().items() if "vision_tower" in name or "abstr" in name}
        )
    assert arms[0] and all(torch.equal(arms[0][name], arms[1][name]) for name in arms[1])


def test_a_recipe_trains_both_stages_at_two_resolutions_and_its_checkpoint_is_described(tmp_path):
    write_training(tmp_path)
    short = ("schedule.steps=2", "schedule.warmup_steps=1", "data.max_length=96")
    one, two = tmp_path / "one", tmp_path / "two"
    run_recipe(tmp_path, "pretrain", one, MLP, *short)
    lora = (f"model.checkpoint={one / 'checkpoint'}", "data.image_size=24", 'train.parts=["abstractor"]')
    adapters = ("train.lora.rank=2", "train.lora.alpha=4")
    run_recipe(tmp_path, "instruct", two, *lora, *adapters, *short)
    before, processor = load_for_chat(one / "checkpoint")
    assert (processor.num_image_tokens, before.config.tokens_per_image, before.config.connector) == (4, 4, "mlp")
    described = meta_config(recipe_of(tmp_path, "instruct", two, *lora, *short)).config
    _, wider = open_stored_model(recipe_of(tmp_path, "instruct", two, *lora, *short))
    assert described.tokens_per_image == wider.num_image_tokens == 9
    new = meta_config(recipe_of(tmp_path, "pretrain", one, MLP)).config
    assert new.to_dict()["connector"] == "mlp" and new.tokens_per_image == 4
    result = CliRunner().invoke(app, ["info", str(one / "checkpoint"), "--json"])
    found = json.loads(result.output)
    assert (found["connector"], found["tokens_per_image"], found["fits"]) == ("mlp", 4, True)
    shown = CliRunner().invoke(app, ["info", str(one / "checkpoint")]).output
    assert "4 (every patch, through an MLP)" in shown
    cost = CliRunner().invoke(app, ["cost", str(tmp_path / "pretrain.yaml"), MLP])
    assert cost.exit_code == 0, cost.output
    refused = CliRunner().invoke(app, ["export", str(one), str(tmp_path / "official"), "--layout", "official"])
    assert refused.exit_code == 2 and "connector" in refused.output and not Path(tmp_path / "official").exists()
