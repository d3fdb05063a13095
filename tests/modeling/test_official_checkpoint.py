"""Checkpoints in the official layout load, save and are refused with the key at fault; ours survive a round trip."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import GOLDENS, IMAGE, golden_directories, largest_difference, sample, tiny_config, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

import owl2  # noqa: F401  (registers the Auto classes)
from owl2.checkpoints import official_to_owl2, owl2_to_official, save_official
from owl2.checkpoints.convert import open_model
from owl2.modeling import CheckpointError, Owl2Config, Owl2ForConditionalGeneration, Owl2Model

DIRECTORIES = golden_directories()
every_golden = pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda directory: directory.name)
UNTIED = [d for d in DIRECTORIES if not json.loads((d / "config.json").read_text())["tie_word_embeddings"]]
TIED = [d for d in DIRECTORIES if d not in UNTIED]

INDEX = "pytorch_model.bin.index.json"


def official_weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def load(directory: Path, **settings: Any) -> Owl2ForConditionalGeneration:
    return AutoModelForImageTextToText.from_pretrained(directory, **settings).eval()


def copied(directory: Path, to: Path, weights: dict[str, torch.Tensor], layout: str = "safetensors") -> Path:
    """An official folder with these weights in a layout."""
    shutil.copy(directory / "config.json", to / "config.json")
    if layout == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, to / "model.safetensors")
    elif layout == "single .bin":
        torch.save(weights, to / "pytorch_model.bin")
    elif layout == "old single .bin":
        torch.save(weights, to / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    else:
        names = sorted(weights)
        shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
        for file, kept in shards.items():
            torch.save({name: weights[name] for name in kept}, to / file)
        weight_map = {name: file for file, kept in shards.items() for name in kept}
        (to / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return to


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@every_golden
@pytest.mark.parametrize("layout", ["safetensors", "single .bin", "old single .bin", "sharded .bin"])
def test_every_official_layout_loads_the_same_model(directory: Path, layout: str, tmp_path: Path) -> None:
    folder = copied(directory, tmp_path, official_weights(directory), layout)
    assert_same_weights(load(folder), load(directory))


@every_golden
def test_every_official_tensor_is_accounted_for(directory: Path) -> None:
    model, info = Owl2ForConditionalGeneration.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    total = sum(tensor.numel() for tensor in official_weights(directory).values())
    tables = sum(
        tensor.numel()
        for name, tensor in official_weights(directory).items()
        if name.endswith(("q_pos_embed", "k_pos_embed", "inv_freq"))
    )
    assert sum(parameter.numel() for parameter in model.parameters()) + tables <= total


@every_golden
def test_position_tables_may_be_absent(directory: Path, tmp_path: Path) -> None:
    weights = {
        name: tensor for name, tensor in official_weights(directory).items() if not name.endswith(("embed", "inv_freq"))
    }
    assert len(weights) < len(official_weights(directory))
    assert_same_weights(load(copied(directory, tmp_path, weights)), load(directory))


@every_golden
def test_saving_in_the_official_layout_gives_the_official_files_back(directory: Path, tmp_path: Path) -> None:
    save_official(load(directory), tmp_path)
    wanted, saved = official_weights(directory), official_weights(tmp_path)
    optional = {name for name in saved if name.endswith(".inv_freq")}  # old checkpoints hold them, new ones do not
    assert set(saved) - optional == set(wanted) - optional
    for name, tensor in wanted.items():
        is_table = name.endswith(("pos_embed", "inv_freq"))
        assert saved[name].dtype == tensor.dtype
        assert largest_difference(saved[name], tensor) <= (1e-6 if is_table else 0.0), name
    compare_settings(
        json.loads((directory / "config.json").read_text()), json.loads((tmp_path / "config.json").read_text())
    )
    assert_same_weights(load(tmp_path), load(directory))


def compare_settings(wanted: dict[str, Any], saved: dict[str, Any]) -> None:
    """Settings that the official code reads to build the model."""
    for key in (
        "architectures model_type attention_bias bos_token_id eos_token_id hidden_act hidden_size intermediate_size "
        "max_position_embeddings num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps rope_scaling "
        "tie_word_embeddings torch_dtype vocab_size"
    ).split():
        assert saved[key] == wanted.get(key, saved[key]), key
    assert saved["rope_theta"] == wanted.get("rope_theta", 10000.0)
    parts = {
        "visual_model": "hidden_act hidden_size image_size intermediate_size layer_norm_eps model_type "
        "num_attention_heads num_channels num_hidden_layers patch_size use_cls_token use_post_layernorm",
        "visual_abstractor": "encoder_hidden_size grid_size hidden_size intermediate_size layer_norm_eps model_type "
        "num_attention_heads num_hidden_layers num_learnable_queries use_cls_token",
    }
    for part, keys in parts.items():
        for key in keys.split():
            stored = wanted["visual_config"][part]
            assert saved["visual_config"][part][key] == stored.get(key, saved["visual_config"][part][key]), (
                f"{part}.{key}"
            )


@every_golden
def test_our_layout_gives_the_official_model_back(directory: Path, tmp_path: Path) -> None:
    model = load(directory)
    model.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert not any("multiway" in name or "visual_abstractor" in name for name in names)
    again = load(tmp_path)
    assert_same_weights(again, model)
    inputs = sample(model.config, [3, IMAGE, 4], 1)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_sharded_safetensors_of_ours_load(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert_same_weights(load(tmp_path), model)


@pytest.mark.parametrize("layout", ["ours", "official"])
@every_golden
def test_auto_classes_load_both_layouts(directory: Path, layout: str, tmp_path: Path) -> None:
    wanted = load(directory)
    if layout == "ours":
        wanted.save_pretrained(tmp_path)
        directory = tmp_path
    assert type(AutoConfig.from_pretrained(directory)) is Owl2Config
    assert type(AutoModelForImageTextToText.from_pretrained(directory)) is Owl2ForConditionalGeneration
    core = AutoModel.from_pretrained(directory)
    assert type(core) is Owl2Model
    assert_same_weights(core, wanted.model)


@every_golden
@pytest.mark.parametrize("layout", ["ours", "official"])
def test_half_precision_on_request(directory: Path, layout: str, tmp_path: Path) -> None:
    wanted = load(directory)
    if layout == "ours":
        wanted.save_pretrained(tmp_path)
        directory = tmp_path
    model = load(directory, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, wanted.get_parameter(name).bfloat16()), name
    inputs = sample(model.config, [3, IMAGE, 4], 1)
    with torch.no_grad():
        assert largest_difference(model(**inputs).logits, wanted(**inputs).logits) < 0.5


@every_golden
def test_official_half_precision_checkpoint_with_its_tables_loads(directory: Path, tmp_path: Path) -> None:
    weights = {name: tensor.half() for name, tensor in official_weights(directory).items()}
    folder = copied(directory, tmp_path, weights)
    config = json.loads((folder / "config.json").read_text()) | {"torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    assert {parameter.dtype for parameter in load(folder).parameters()} == {torch.float16}


def test_the_official_7b_model_has_the_official_parameters_in_both_directions() -> None:
    official = json.loads((GOLDENS / "official_7b_parameters.json").read_text())
    config = Owl2Config()
    with torch.device("meta"):
        model = Owl2ForConditionalGeneration(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == official["total_parameters"] == 8_197_859_328
    ours = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    written = {name: list(tensor.shape) for name, tensor in owl2_to_official(model.state_dict(), config).items()}
    assert written == official["parameters"] | official["persistent_buffers"]
    tensors = {name: torch.empty(shape, device="meta") for name, shape in official["parameters"].items()}
    assert {name: list(tensor.shape) for name, tensor in official_to_owl2(tensors, config).items()} == ours


def test_converting_there_and_back_changes_nothing() -> None:
    model = tiny_model(tiny_config(attention_bias=True, attention_output_bias=True, head_dim=16))
    official = owl2_to_official(model.state_dict(), model.config)
    back = official_to_owl2(official, model.config)
    assert set(back) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(back[name], tensor), name


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ({"qk_norm": True}, "qk_norm"),
        ({"modality_adaptive": ("q", "v")}, "modality_adaptive"),
        ({"sliding_window": 8}, "sliding_window"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0}}, "rope_parameters"),
    ],
)
def test_what_the_official_code_cannot_express_is_not_written(text: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=named):
        save_official(tiny_model(tiny_config(**text)), tmp_path / "official")
    assert not (tmp_path / "official").exists(), "nothing is left half written"


Weights = dict[str, torch.Tensor]
KEY = "model.layers.1.self_attn.k_proj.multiway.1.weight"
FUSED = "model.vision_model.encoder.layers.0.self_attn.query_key_value.weight"
QUERIES = "model.visual_abstractor.query_embeds"
TABLE = "model.visual_abstractor.encoder.layers.0.crossattention.attention.k_pos_embed"


def drop(weights: Weights, key: str) -> None:
    del weights[key]


def add(weights: Weights, key: str) -> None:
    weights[key] = torch.zeros(2)


def cut(weights: Weights, key: str) -> None:
    weights[key] = weights[key][..., :-1].clone()


def cut_rows(weights: Weights, key: str) -> None:
    weights[key] = weights[key][:-1].clone()


def double(weights: Weights, key: str) -> None:
    weights[key] = torch.cat([weights[key]] * 2)


def disturb(weights: Weights, key: str) -> None:
    weights[key] = weights[key] + 1e-3


def spoil(weights: Weights, key: str) -> None:
    weights[key] = weights[key] * float("nan")


@pytest.mark.parametrize(
    ("damage", "key"),
    [
        (drop, KEY),
        (drop, FUSED),
        (drop, QUERIES),
        (drop, "model.norm.weight"),
        (add, "model.layers.0.self_attn.k_proj.multiway.2.weight"),
        (add, "model.surplus.weight"),
        (cut, KEY),
        (cut, FUSED),
        (cut_rows, FUSED),
        (cut, QUERIES),
        (double, QUERIES),
        (disturb, TABLE),
        (spoil, TABLE),
        (cut, TABLE),
    ],
)
@every_golden
def test_a_damaged_official_checkpoint_is_refused_with_the_official_key(
    directory: Path, damage: Callable[[Weights, str], None], key: str, tmp_path: Path
) -> None:
    weights = official_weights(directory)
    damage(weights, key)
    with pytest.raises(CheckpointError) as error:
        load(copied(directory, tmp_path, weights))
    assert key in str(error.value)


@pytest.mark.parametrize("directory", UNTIED, ids=lambda directory: directory.name)
def test_an_official_checkpoint_without_its_head_is_refused(directory: Path, tmp_path: Path) -> None:
    weights = official_weights(directory)
    del weights["lm_head.weight"]
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        load(copied(directory, tmp_path, weights))


@pytest.mark.parametrize("directory", TIED, ids=lambda directory: directory.name)
def test_a_tied_checkpoint_whose_head_is_not_the_embedding_is_refused(directory: Path, tmp_path: Path) -> None:
    weights = official_weights(directory)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    assert_same_weights(load(copied(directory, tmp_path, weights)), load(directory))
    weights["lm_head.weight"][3, 2] += 1e-3
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        load(copied(directory, tmp_path, weights))


OUR_KEY = "model.language_model.layers.1.self_attn.vision_k_proj.weight"


def damaged(folder: Path, damage: Callable[[Weights, str], None], key: str) -> Path:
    """A checkpoint of ours with one fault."""
    tiny_model().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    damage(weights, key)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(("damage", "key"), [(drop, OUR_KEY), (add, "model.surplus.weight"), (cut, OUR_KEY)])
def test_a_damaged_checkpoint_of_ours_is_refused_with_the_key(
    damage: Callable[[Weights, str], None], key: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=re.escape(key)):
        load(damaged(tmp_path, damage, key))


@pytest.mark.parametrize("layout", ["ours", "official"])
@pytest.mark.parametrize("sizes", [{"hidden_size": 10**6, "intermediate_size": 10**6}, {"num_hidden_layers": 10**7}])
def test_a_configuration_far_larger_than_its_weights_is_refused_before_anything_is_allocated(
    layout: str, sizes: dict[str, int], tmp_path: Path
) -> None:
    """Each would take terabytes, so it could not be refused later."""
    model = tiny_model(tiny_config(num_key_value_heads=4))
    model.save_pretrained(tmp_path) if layout == "ours" else save_official(model, tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (settings["text_config"] if layout == "ours" else settings).update(sizes)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    for load_model in (load, Owl2ForConditionalGeneration.from_pretrained, open_model):
        with pytest.raises(CheckpointError, match=r"describes [\d,]+ (layers|parameters), but the files hold"):
            load_model(tmp_path)


def test_a_fault_is_let_pass_only_on_request(tmp_path: Path) -> None:
    wanted = tiny_model().state_dict()
    for damage, key in ((drop, OUR_KEY), (add, "model.surplus.weight")):
        state = load(damaged(tmp_path, damage, key), strict=False).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in wanted.items() if name != OUR_KEY)
    damaged(tmp_path, cut, OUR_KEY)
    with pytest.raises(CheckpointError, match=r"\(32, 63\) instead of \(32, 64\)"):
        load(tmp_path, strict=False)
    state = load(tmp_path, ignore_mismatched_sizes=True).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in wanted.items() if name != OUR_KEY)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return copied(DIRECTORIES[0], tmp_path, official_weights(DIRECTORIES[0]), "sharded .bin")


def rename_first_shard(folder: Path, name: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    first = sorted(set(index["weight_map"].values()))[0]
    index["weight_map"] = {key: name if file == first else file for key, file in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("outside", ["../outside.bin", "/tmp/outside.bin", "inside/../../outside.bin"])
def test_an_index_that_leaves_its_folder_is_refused(sharded: Path, outside: str) -> None:
    rename_first_shard(sharded, outside)
    with pytest.raises(CheckpointError, match="outside its folder.*outside.bin"):
        load(sharded)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match="pytorch_model-00002-of-00002.bin"):
        load(sharded)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_is_none_is_refused(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match="index"):
        load(sharded)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    shutil.copy(DIRECTORIES[0] / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("layout", ["safetensors", "single .bin", "old single .bin", "sharded .bin"])
def test_a_file_that_was_cut_off_is_named(layout: str, tmp_path: Path) -> None:
    copied(DIRECTORIES[0], tmp_path, official_weights(DIRECTORIES[0]), layout)
    file = sorted(path for path in tmp_path.iterdir() if path.suffix in (".safetensors", ".bin"))[0]
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=file.name):
        load(tmp_path)


def test_a_file_of_ours_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load(tmp_path)


class Malicious:
    """A pickle that makes a directory when it is read."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("layout", ["official", "ours"])
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "old"])
def test_a_pickle_in_a_checkpoint_is_not_executed(layout: str, new_format: bool, tmp_path: Path) -> None:
    folder, proof = tmp_path / "checkpoint", tmp_path / "executed"
    folder.mkdir()
    if layout == "official":
        shutil.copy(DIRECTORIES[0] / "config.json", folder)
    else:
        tiny_config().save_pretrained(folder)
    content = {"lm_head.weight": torch.zeros(2), "evil": Malicious(proof)}
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match="checkpoint"):
        load(folder)
    assert not proof.exists()


def test_a_bin_file_of_something_else_is_refused(tmp_path: Path) -> None:
    shutil.copy(DIRECTORIES[0] / "config.json", tmp_path)
    torch.save({"model": {"nested": torch.zeros(2)}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        load(tmp_path)


def test_the_generation_settings_of_an_official_folder_are_read(tmp_path: Path) -> None:
    folder = copied(DIRECTORIES[0], tmp_path, official_weights(DIRECTORIES[0]))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7, "max_new_tokens": 5}))
    model = load(folder)
    assert (model.generation_config.eos_token_id, model.generation_config.max_new_tokens) == (7, 5)


@pytest.mark.parametrize("read", [load, open_model], ids=["in memory", "tensor by tensor"])
def test_generation_settings_whose_tokens_are_not_numbers_are_refused(
    read: Callable[[Path], Any], tmp_path: Path
) -> None:
    folder = copied(DIRECTORIES[0], tmp_path, official_weights(DIRECTORIES[0]))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3], "pad_token_id": "abc"}))
    with pytest.raises(CheckpointError, match=r"generation_config\.json pad_token_id is 'abc'"):
        read(folder)
