"""Configurations: the official flat form is read, ours survives saving, what cannot work is refused with its value."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import golden_directories, tiny_config
from transformers import AutoConfig

from owl2.modeling import Owl2AbstractorConfig, Owl2Config, Owl2TextConfig, Owl2VisionConfig

every_golden = pytest.mark.parametrize("directory", golden_directories(), ids=lambda directory: directory.name)


@every_golden
def test_official_flat_configuration_is_read_field_by_field(directory: Path) -> None:
    flat = json.loads((directory / "config.json").read_text())
    config = AutoConfig.from_pretrained(directory)
    assert type(config) is Owl2Config
    text_fields = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act "
        "rms_norm_eps max_position_embeddings attention_bias bos_token_id eos_token_id"
    ).split()
    assert {key: getattr(config.text_config, key) for key in text_fields if key in flat} == {
        key: flat[key] for key in text_fields if key in flat
    }
    assert config.tie_word_embeddings == config.text_config.tie_word_embeddings == flat["tie_word_embeddings"]
    assert config.text_config.rope_parameters["rope_theta"] == flat.get("rope_theta", 10000.0)
    scaling = flat.get("rope_scaling") or {"type": "default"}
    assert config.text_config.rope_parameters["rope_type"] == scaling["type"]
    assert config.text_config.rope_parameters.get("factor") == scaling.get("factor")
    vision, visual_model = config.vision_config, flat["visual_config"]["visual_model"]
    for key in (
        "hidden_size intermediate_size num_hidden_layers num_attention_heads image_size patch_size hidden_act "
        "layer_norm_eps use_cls_token use_post_layernorm"
    ).split():
        assert getattr(vision, key) == visual_model[key], key
    abstractor, visual_abstractor = config.abstractor_config, flat["visual_config"]["visual_abstractor"]
    for key in (
        "hidden_size intermediate_size num_hidden_layers num_attention_heads num_learnable_queries layer_norm_eps"
    ).split():
        assert getattr(abstractor, key) == visual_abstractor[key], key


@every_golden
def test_official_configuration_saved_by_us_reads_the_same(directory: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(directory)
    config.save_pretrained(tmp_path)
    assert "visual_config" not in json.loads((tmp_path / "config.json").read_text())
    again = AutoConfig.from_pretrained(tmp_path)
    for part in ("vision_config", "abstractor_config", "text_config"):
        assert fields(getattr(again, part)) == fields(getattr(config, part))
    assert again.image_token_id == config.image_token_id


def fields(config: Any) -> dict[str, Any]:
    """Fields without what saving and loading stamp."""
    stamps = {"_name_or_path", "transformers_version", "dtype", "architectures"}
    return {key: value for key, value in config.to_dict().items() if key not in stamps}


def test_every_setting_survives_saving_and_loading(tmp_path: Path) -> None:
    config = tiny_config(
        vision={"use_cls_token": False, "use_post_layernorm": False, "position_grid_size": 5, "layer_norm_eps": 2e-5},
        abstractor={"num_learnable_queries": 7, "layer_norm_eps": 3e-6},
        modality_adaptive=("v", "q"),
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 77.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        qk_norm=True,
        sliding_window=9,
        attention_bias=True,
        attention_output_bias=False,
        mlp_bias=True,
        tie_word_embeddings=True,
        eos_token_id=[2, 5],
    )
    config.save_pretrained(tmp_path)
    again = Owl2Config.from_pretrained(tmp_path)
    assert fields(again) == fields(config)
    assert again.text_config.modality_adaptive == ["q", "v"]
    assert again.vision_config.position_grid_size == 5


def test_the_defaults_are_the_published_model() -> None:
    config = Owl2Config()
    assert (config.vision_config.num_hidden_layers, config.vision_config.image_size) == (24, 448)
    assert (config.abstractor_config.num_hidden_layers, config.tokens_per_image) == (6, 65)
    assert (config.text_config.num_hidden_layers, config.text_config.hidden_size) == (32, 4096)
    assert config.text_config.modality_adaptive == ["norm", "k", "v"]
    assert config.image_token_id == 32000, "the first id outside the embedding"


@pytest.mark.parametrize(
    ("config_class", "fields", "named"),
    [
        (Owl2VisionConfig, {"image_size": 450}, ["450", "14"]),
        (Owl2VisionConfig, {"image_size": 0}, ["image_size", "0"]),
        (Owl2VisionConfig, {"patch_size": 0}, ["patch_size", "0"]),
        (Owl2VisionConfig, {"hidden_act": "swoosh"}, ["hidden_act", "swoosh"]),
        (Owl2VisionConfig, {"layer_norm_eps": float("nan")}, ["layer_norm_eps", "nan"]),
        (Owl2VisionConfig, {"hidden_size": 1000}, ["1000", "16"]),
        (Owl2VisionConfig, {"num_attention_heads": 0}, ["num_attention_heads", "0"]),
        (Owl2AbstractorConfig, {"num_learnable_queries": 0}, ["num_learnable_queries", "0"]),
        (Owl2AbstractorConfig, {"hidden_size": 1001}, ["1001"]),
        (Owl2AbstractorConfig, {"hidden_size": 1026, "num_attention_heads": 2}, ["1026"]),
        (Owl2AbstractorConfig, {"num_attention_heads": 0}, ["num_attention_heads", "0"]),
        (Owl2TextConfig, {"num_key_value_heads": 5}, ["32", "5"]),
        (Owl2TextConfig, {"num_key_value_heads": 0}, ["num_key_value_heads", "0"]),
        (Owl2TextConfig, {"vocab_size": "32k"}, ["vocab_size", "32k"]),
        (Owl2TextConfig, {"num_hidden_layers": -1}, ["num_hidden_layers", "-1"]),
        (Owl2TextConfig, {"max_position_embeddings": 0}, ["max_position_embeddings", "0"]),
        (Owl2TextConfig, {"rms_norm_eps": -1e-6}, ["rms_norm_eps", "-1e-06"]),
        (Owl2TextConfig, {"rope_parameters": "linear"}, ["rope_parameters", "linear"]),
        (Owl2TextConfig, {"rope_parameters": {"rope_type": "spiral"}}, ["spiral", "llama3"]),
        (Owl2TextConfig, {"rope_scaling": {"type": "spiral", "factor": 2.0}}, ["spiral", "linear"]),
        (Owl2TextConfig, {"pad_token_id": "abc"}, ["pad_token_id", "abc", "a whole number"]),
        (Owl2TextConfig, {"eos_token_id": ["a", 2]}, ["eos_token_id", "['a', 2]", "or a list of them"]),
        (Owl2Config, {"bos_token_id": ["a", "b"]}, ["bos_token_id", "['a', 'b']"]),
        (Owl2Config, {"pad_token_id": [0]}, ["pad_token_id", "[0]"]),
        (Owl2Config, {"image_token_id": 1.5}, ["image_token_id", "1.5"]),
        (Owl2Config, {"text_config": [1]}, ["text_config", "[1]"]),
        (Owl2Config, {"visual_config": "clip"}, ["visual_config", "clip"]),
        (Owl2Config, {"visual_config": {"visual_model": [1]}}, ["visual_model", "[1]"]),
        (Owl2TextConfig, {"hidden_size": 4095}, ["4095", "32"]),
        (Owl2TextConfig, {"modality_adaptive": ("norm", "mlp")}, ["mlp", "norm"]),
        (Owl2TextConfig, {"modality_adaptive": "qkv"}, ["qkv"]),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(
    config_class: type, fields: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ValueError) as error:
        config_class(**fields)
    for word in named:
        assert word in str(error.value)


def test_queries_and_patches_must_have_one_width() -> None:
    with pytest.raises(ValueError, match="64.*32"):
        tiny_config(abstractor={"hidden_size": 64})
