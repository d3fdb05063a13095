"""`owl2 info`: parts, parameters, and what of a checkpoint loads."""

import json
import math
import shutil
import struct

import pytest
import torch
from helpers import GOLDENS
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from owl2 import Owl2Config
from owl2.modeling.official_checkpoint import official_config

FIXED_TABLES = ("q_pos_embed", "k_pos_embed", "inv_freq")


def info(owl2, directory) -> dict:
    return json.loads(owl2("info", directory, "--json").stdout)


def rewrite(directory, change) -> None:
    """Changes the tensors of a checkpoint."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def test_the_parameters_add_up_to_what_the_file_holds(owl2, official):
    with safe_open(official / "model.safetensors", framework="pt") as file:
        stored = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}
    tables = [name for name in stored if name.endswith(FIXED_TABLES)]
    vision = sum(count for name, count in stored.items() if "vision_model" in name)
    halves = [sum(count for name, count in stored.items() if f".multiway.{half}." in name) for half in (0, 1)]

    report = info(owl2, official)
    parameters = report["parameters"]
    assert parameters["total"] == sum(stored.values()) - sum(stored[name] for name in tables)
    assert parameters["total"] == sum(parameters.values()) - parameters["total"]
    assert parameters["total"] == sum(report["parameters_by_modality"].values())
    assert parameters["vision_encoder"] == vision
    assert [parameters["decoder_text"], parameters["decoder_vision"]] == halves
    assert (report["keys"], report["keys_used"], report["tables_checked"]) == (len(stored), len(stored), len(tables))


def test_both_layouts_have_the_same_parts(owl2, official, ours):
    one, other = info(owl2, official), info(owl2, ours)
    assert (one["layout"], other["layout"]) == ("official", "owl2")
    same = ("parameters", "parameters_by_modality", "tokens_per_image", "image_size", "context", "prompt", "fits")
    assert [one[key] for key in same] == [other[key] for key in same]


def test_it_reports_what_a_user_needs_to_prepare_inputs(owl2, official):
    report = info(owl2, official)
    assert (report["image_size"], report["queries"], report["tokens_per_image"], report["context"]) == (56, 8, 9, 256)
    assert report["prompt"] == "USER: <|image|>... ASSISTANT:"


def test_the_table_says_that_all_keys_are_used(owl2, official):
    result = owl2("info", official)
    assert result.exit_code == 0, result.output
    assert "128 of 128 keys used, 7 fixed tables checked" in result.stdout
    assert "vision encoder" in result.stdout and "decoder, vision half" in result.stdout


def test_tied_embeddings_are_counted_once_and_not_missing(owl2):
    report = info(owl2, GOLDENS / "other_settings")
    assert report["fits"] and report["prompt"] is None
    vocabulary, hidden = report["vocabulary"], 64
    assert report["parameters"]["embeddings"] == vocabulary * hidden


def test_missing_and_extra_keys_are_named_with_exit_code_2(owl2, editable):
    def change(tensors):
        tensors["model.extra.weight"] = tensors.pop("model.abstractor.end_of_image")

    rewrite(editable, change)
    result = owl2("info", editable)
    assert result.exit_code == 2 and "128 of 129 keys used" in result.stdout
    assert result.stderr.splitlines() == [
        "owl2: error: 1 missing keys: model.abstractor.end_of_image",
        "owl2: error: 1 unexpected keys: model.extra.weight",
    ]


def test_a_shape_that_does_not_fit_is_named_with_both_shapes(owl2, editable):
    rewrite(editable, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(7, 64)}))
    result = owl2("info", editable)
    assert result.exit_code == 2
    assert "lm_head.weight of [7, 64], not [320, 64]" in result.stderr


def test_a_fixed_table_that_is_not_the_computed_one_is_named(owl2, official, tmp_path):
    tensors = load_file(official / "model.safetensors")
    name = next(name for name in tensors if name.endswith("k_pos_embed"))
    tensors[name] += 0.5
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((official / "config.json").read_text())
    result = owl2("info", tmp_path)
    assert result.exit_code == 2 and "1 wrong tables" in result.stderr and name in result.stderr


def test_sharded_bin_files_are_read_too(owl2, official, tmp_path):
    tensors = load_file(official / "model.safetensors")
    names = sorted(tensors)
    shards = {"pytorch_model-1.bin": names[:50], "pytorch_model-2.bin": names[50:]}
    for file, own in shards.items():
        torch.save({name: tensors[name] for name in own}, tmp_path / file)
    weight_map = {name: file for file, own in shards.items() for name in own}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text((official / "config.json").read_text())
    report = info(owl2, tmp_path)
    assert report["fits"] and report["keys_used"] == len(names) and report["files"] == list(shards)


def test_a_missing_shard_is_named(refused, official, tmp_path):
    (tmp_path / "config.json").write_text((official / "config.json").read_text())
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    assert "model-1.safetensors" in refused("info", tmp_path)


@pytest.mark.parametrize("damage", ["cut", "absent"])
def test_weights_that_cannot_be_read_are_named(refused, editable, damage):
    weights = editable / "model.safetensors"
    weights.unlink() if damage == "absent" else weights.write_bytes(weights.read_bytes()[:500])
    assert str(editable) in refused("info", editable)


@pytest.mark.parametrize(
    "contents", [[1, 2], {"model": {"lm_head.weight": torch.zeros(2)}, "epoch": 3}], ids=["a list", "a training state"]
)
def test_a_bin_file_of_something_else_is_named(refused, official, tmp_path, contents):
    shutil.copy(official / "config.json", tmp_path)
    torch.save(contents, tmp_path / "pytorch_model.bin")
    assert "pytorch_model.bin holds other things than named tensors" in refused("info", tmp_path)


def test_an_adapter_is_told_from_a_model(refused, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert f"owl2 merge-lora {tmp_path} OUT" in refused("info", tmp_path)


def test_a_configuration_that_cannot_be_is_refused_by_its_file(refused, editable):
    config = json.loads((editable / "config.json").read_text())
    config["text_config"]["hidden_size"] = "large"
    (editable / "config.json").write_text(json.dumps(config))
    line = refused("info", editable)
    assert str(editable / "config.json") in line and "hidden_size is 'large'" in line


def test_a_damaged_tokenizer_does_not_hide_the_rest(owl2, editable):
    (editable / "tokenizer.json").write_text("{}")
    result = owl2("info", editable)
    assert result.exit_code == 0 and "no tokenizer in this directory" in result.stdout


def test_an_unknown_directory(refused):
    assert "no/such/model does not exist" in refused("info", "no/such/model")


def test_the_published_7b_is_inspected_by_its_headers_alone(owl2, tmp_path):
    """16 GB of weights that take no room on the disk: only their names, types and shapes are there."""
    shapes = json.loads((GOLDENS / "official_7b_parameters.json").read_text())["parameters"]
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + offset)
    (tmp_path / "config.json").write_text(json.dumps(official_config(Owl2Config(), torch.float16)))

    report = info(owl2, tmp_path)
    assert report["fits"] and report["parameters"]["total"] == 8_197_859_328
    assert (report["parameters"]["vision_encoder"], report["parameters"]["decoder_vision"]) == (
        303_966_208,
        1_074_003_968,
    )
    assert report["stored_as"] == {"float16": len(shapes)}
