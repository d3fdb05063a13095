"""Vision encoder: CLIP's values from CLIP's weights, and any resolution."""

from pathlib import Path

import pytest
import torch
from helpers import largest_difference, randomize, text_config, tiny_config, tiny_model, vision_config
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from owl2.checkpoints import initialize
from owl2.modeling import Owl2ForConditionalGeneration, Owl2VisionEncoder
from owl2.modeling.positions import interpolate_positions

CLIP_SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=16)


def clip_config(**changes: object) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        **{**CLIP_SIZES, "patch_size": 4, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-2, **changes}
    )


def tiny_llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    )


@pytest.mark.parametrize("kind", ["loaded model", "vision checkpoint", "whole CLIP checkpoint"])
@torch.no_grad()
def test_clip_checkpoint_gives_clips_values(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if kind == "whole CLIP checkpoint":
        text = CLIPTextConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20
        )
        whole = randomize(CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=clip_config().to_dict())))
        whole.save_pretrained(tmp_path)
        source = tmp_path
        clip = CLIPVisionModel.from_pretrained(tmp_path).eval()
    else:
        clip = randomize(CLIPVisionModel(clip_config())).eval()
        clip.save_pretrained(tmp_path)
        source = tmp_path if kind == "vision checkpoint" else clip
    model = initialize(
        tiny_llama(), source, abstractor_config={"num_hidden_layers": 1, "num_attention_heads": 2}
    ).eval()
    pixel_values = torch.randn(2, 3, 16, 16)
    theirs = clip(pixel_values, output_hidden_states=True)
    ours = model.model.vision_tower(pixel_values, output_hidden_states=True)
    assert len(ours.hidden_states) == len(theirs.hidden_states) == 4
    for one, other in zip(ours.hidden_states[:-1], theirs.hidden_states[:-1], strict=True):
        assert largest_difference(one, other) <= 1e-5
    # CLIP normalises only the class token, which it calls pooled; the paper's encoder normalises every token.
    assert largest_difference(ours.last_hidden_state[:, 0], theirs.pooler_output) <= 1e-5


@torch.no_grad()
def test_clip_at_another_resolution_is_clips_own_interpolation() -> None:
    clip = randomize(CLIPVisionModel(clip_config())).eval()
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2}
    model = initialize(tiny_llama(), clip, vision_config={"image_size": 32}, abstractor_config=sizes).eval()
    assert model.config.vision_config.image_size == 32
    assert model.config.vision_config.position_grid_size == 8
    pixel_values = torch.randn(1, 3, 32, 32)
    theirs = clip(pixel_values, interpolate_pos_encoding=True).pooler_output
    assert largest_difference(model.model.vision_tower(pixel_values).last_hidden_state[:, 0], theirs) <= 1e-5


def test_a_vision_configuration_object_may_set_the_image_size_of_a_clip_checkpoint() -> None:
    clip = CLIPVisionModel(clip_config())
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2}
    same = vision_config(num_hidden_layers=3, layer_norm_eps=1e-2, image_size=32)
    model = initialize(tiny_llama(), clip, vision_config=same, abstractor_config=sizes)
    assert model.config.vision_config.image_size == 32
    with pytest.raises(ValueError, match="num_hidden_layers"):
        initialize(tiny_llama(), clip, vision_config={"num_hidden_layers": 5}, abstractor_config=sizes)


def test_other_vision_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match="llama"):
        initialize(tiny_llama(), tiny_llama())


@pytest.mark.parametrize("use_cls_token", [True, False])
@torch.no_grad()
def test_positions_of_a_larger_grid_are_bicubic(use_cls_token: bool) -> None:
    table = torch.randn(use_cls_token + 16, 6)
    ours = interpolate_positions(table, (8, 12), int(use_cls_token))
    grid = table[use_cls_token:].reshape(4, 4, 6)
    for channel in range(6):  # one channel at a time, so that rows, columns and channels cannot be mixed up
        wanted = F.interpolate(grid[None, None, :, :, channel], size=(8, 12), mode="bicubic", align_corners=False)
        assert largest_difference(ours[use_cls_token:, channel].reshape(8, 12), wanted[0, 0]) <= 1e-6
    assert torch.equal(ours[:use_cls_token], table[:use_cls_token])
    assert interpolate_positions(table, (4, 4), int(use_cls_token)) is table


@pytest.mark.parametrize("use_cls_token", [True, False])
@torch.no_grad()
def test_a_model_runs_at_twice_its_resolution_and_is_saved_there(use_cls_token: bool, tmp_path: Path) -> None:
    model = tiny_model(tiny_config(vision={"use_cls_token": use_cls_token}))
    pixel_values = torch.randn(2, 3, 32, 32)
    interpolated = model.model.encode_images(pixel_values).image_hidden_states
    model.set_image_size(32)
    assert torch.equal(model.model.encode_images(pixel_values).image_hidden_states, interpolated)
    model.save_pretrained(tmp_path)
    again = Owl2ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.config.vision_config.image_size == 32
    assert again.model.vision_tower.position_embedding.shape == (use_cls_token + 64, 32)
    assert torch.equal(again.model.encode_images(pixel_values).image_hidden_states, interpolated)


def test_resizing_keeps_a_frozen_encoder_frozen() -> None:
    model = tiny_model().requires_grad_(False)
    model.set_image_size(32)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def test_images_need_not_be_square() -> None:
    encoder = randomize(Owl2VisionEncoder(vision_config())).eval()
    assert encoder(torch.randn(1, 3, 8, 20)).last_hidden_state.shape == (1, 1 + 2 * 5, 32)


def test_sides_that_the_patch_does_not_divide_are_refused() -> None:
    encoder = Owl2VisionEncoder(vision_config())
    with pytest.raises(ValueError, match="18 x 16.*4"):
        encoder(torch.zeros(1, 3, 18, 16))
    with pytest.raises(ValueError, match="18.*4"):
        encoder.set_image_size(18)


@torch.no_grad()
def test_integer_and_half_precision_pixels_are_accepted() -> None:
    encoder = randomize(Owl2VisionEncoder(vision_config())).eval()
    pixels = torch.randint(0, 3, (1, 3, 16, 16))
    wanted = encoder(pixels.float()).last_hidden_state
    assert torch.equal(encoder(pixels).last_hidden_state, wanted)
    assert torch.equal(encoder(pixels.half()).last_hidden_state, wanted)


def test_text_configuration_of_the_helpers_is_not_the_vision_one() -> None:
    assert text_config().hidden_size != vision_config().hidden_size, "tests see a mixed-up width only if they differ"
