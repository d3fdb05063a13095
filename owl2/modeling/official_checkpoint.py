"""Converts the names and the layout of official checkpoints to ours and back.

The official code saves a flat `config.json`, the query, key and value projections of the vision encoder as one linear
whose rows are ordered (head, q/k/v, head_dim), the modality copies as `multiway.0` (text) and `multiway.1` (vision),
and tables of fixed positions and rotary frequencies. Those tables are computed here: on loading they are checked, never
copied.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict, snapshot_download
from transformers import PreTrainedModel
from transformers.utils import cached_file

from owl2.files import WEIGHTS_MANIFEST, read_json_object

from .configuration import Owl2Config
from .errors import CheckpointError
from .positions import sincos_grid_positions, sincos_positions
from .stored_weights import read_weights, weight_files

# (official, ours) in pieces of a name; the first pattern that matches from the left wins within each list.
_PARTS = [
    ("model.vision_model.embeddings.cls_token", "model.vision_tower.class_embedding"),
    ("model.vision_model.embeddings.patch_embed.", "model.vision_tower.patch_embedding."),
    ("model.vision_model.embeddings.position_embedding", "model.vision_tower.position_embedding"),
    ("model.vision_model.embeddings.pre_layernorm.", "model.vision_tower.pre_layernorm."),
    ("model.vision_model.encoder.layers.", "model.vision_tower.layers."),
    ("model.vision_model.post_layernorm.", "model.vision_tower.post_layernorm."),
    ("model.visual_abstractor.encoder.layers.", "model.abstractor.layers."),
    ("model.visual_abstractor.query_embeds", "model.abstractor.learnable_queries"),
    ("model.visual_abstractor.visual_fc.", "model.abstractor.projection."),
    ("model.visual_abstractor.vit_eos", "model.abstractor.end_of_image"),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.layers.", "model.language_model.layers."),
    ("model.norm.", "model.language_model.norm."),
]
_INSIDE = {
    "model.vision_tower.layers.": [
        (".input_layernorm.", ".layer_norm1."),
        (".post_attention_layernorm.", ".layer_norm2."),
        (".self_attn.dense.", ".self_attn.out_proj."),
    ],
    "model.abstractor.layers.": [
        (".crossattention.attention.query.", ".attention.q_proj."),
        (".crossattention.attention.key.", ".attention.k_proj."),
        (".crossattention.attention.value.", ".attention.v_proj."),
        (".crossattention.output.out_proj.", ".attention.out_proj."),
        (".crossattention.norm1.", ".query_norm."),
        (".crossattention.normk.", ".patch_norm."),
        (".crossattention.output.norm2.", ".mlp_norm."),
        (".crossattention.output.mlp.w1.", ".mlp.gate_proj."),
        (".crossattention.output.mlp.w3.", ".mlp.up_proj."),
        (".crossattention.output.mlp.ffn_ln.", ".mlp.inner_norm."),
        (".crossattention.output.mlp.w2.", ".mlp.down_proj."),
    ],
    "model.language_model.layers.": [
        (".q_proj.multiway.0.", ".q_proj."),
        (".q_proj.multiway.1.", ".vision_q_proj."),
        (".k_proj.multiway.0.", ".k_proj."),
        (".k_proj.multiway.1.", ".vision_k_proj."),
        (".v_proj.multiway.0.", ".v_proj."),
        (".v_proj.multiway.1.", ".vision_v_proj."),
        ("layernorm.multiway.0.weight", "layernorm.weight"),
        ("layernorm.multiway.1.weight", "layernorm.vision_weight"),
    ],
}
_FUSED = ".self_attn.query_key_value."
_QUERY_TABLE = re.compile(r"^model\.visual_abstractor\.encoder\.layers\.\d+\.crossattention\.attention\.q_pos_embed$")
_PATCH_TABLE = re.compile(r"^model\.visual_abstractor\.encoder\.layers\.\d+\.crossattention\.attention\.k_pos_embed$")
_ROTARY_TABLE = re.compile(r"^model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$")
_UNBATCHED = {"class_embedding": 1, "position_embedding": 2, "learnable_queries": 2, "end_of_image": 1}
"""Our number of dimensions for parameters that the official code stores with leading dimensions of 1."""


def to_owl2_name(name: str) -> str:
    """Our name of an official parameter that is not fused."""
    for official, ours in _PARTS:
        if name.startswith(official):
            name = ours + name.removeprefix(official)
            break
    for part, pieces in _INSIDE.items():
        if name.startswith(part):
            for official, ours in pieces:
                if official in name:
                    return name.replace(official, ours)
    return name


def to_official_name(name: str, separate: Iterable[str]) -> str:
    """Official name of one of our parameters that is not fused; `separate` lists the parts that have a vision copy."""
    for part, pieces in _INSIDE.items():
        if name.startswith(part) and ".multiway." not in name:  # that of no modality is unknown and keeps its name
            for official, ours in pieces:
                is_copy = ".multiway." in official
                kind = "norm" if ours.startswith("layernorm") else ours.removeprefix(".").removeprefix("vision_")[0]
                if (not is_copy or kind in separate) and ours in name:
                    name = name.replace(ours, official)
                    break
    for official, ours in _PARTS:
        if name.startswith(ours):
            return official + name.removeprefix(ours)
    return name


def official_name(name: str, config: Owl2Config) -> str:
    """Official name of the tensor that holds one of our parameters, for messages about an official checkpoint."""
    if name.startswith("model.vision_tower.layers."):
        name = re.sub(r"\.self_attn\.[qkv]_proj\.", _FUSED, name)
    return to_official_name(name, config.text_config.modality_adaptive)


def official_to_owl2(tensors: Mapping[str, torch.Tensor], config: Owl2Config) -> dict[str, torch.Tensor]:
    """Our state dict from an official one.

    Raises:
        CheckpointError: A table of fixed positions or frequencies is not the computed one, or a tensor has an
            impossible shape.
    """
    state: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if is_table(name):
            _check_table(name, tensor, config)
        elif _FUSED in name:
            pieces = _split_fused(name, tensor, config.vision_config.num_attention_heads)
            for letter, piece in zip("qkv", pieces, strict=True):
                state[to_owl2_name(name.replace(_FUSED, f".self_attn.{letter}_proj."))] = piece
        else:
            ours = to_owl2_name(name)
            kept = next((dims for ending, dims in _UNBATCHED.items() if ours.endswith(ending)), tensor.ndim)
            while tensor.ndim > kept and tensor.shape[0] == 1:
                tensor = tensor[0]
            state[ours] = tensor
    return state


def owl2_to_official(
    state: Mapping[str, torch.Tensor], config: Owl2Config, tables: bool = True
) -> dict[str, torch.Tensor]:
    """Official state dict from ours, with the fixed tables unless `tables` is False."""
    heads = config.vision_config.num_attention_heads
    separate = config.text_config.modality_adaptive
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("model.vision_tower.layers.") and re.search(r"\.self_attn\.[qkv]_proj\.", name):
            if ".q_proj." in name:
                pieces = [state[name.replace(".q_proj.", f".{letter}_proj.")] for letter in "qkv"]
                fused = re.sub(r"\.self_attn\.q_proj\.", _FUSED, name)
                tensors[to_official_name(fused, separate)] = _fuse(pieces, heads)
            continue
        official = to_official_name(name, separate)
        if name.endswith(("class_embedding", "end_of_image")):
            tensor = tensor[None, None]
        elif (
            name.endswith("learnable_queries")
            or name.endswith("position_embedding")
            and config.vision_config.use_cls_token
        ):
            tensor = tensor[None]
        tensors[official] = tensor.contiguous()
    return tensors | (fixed_tables(config) if tables else {})


def is_official_checkpoint(name_or_path: Any, **hub: Any) -> Path | None:
    """The folder of an official checkpoint, fetched if it is a name on the hub; `None` for anything else."""
    if name_or_path is None:
        return None
    directory = Path(name_or_path)
    if directory.is_dir():
        config_file = directory / "config.json"
    else:
        found = cached_file(
            str(name_or_path),
            "config.json",
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
            **hub,
        )
        config_file = Path(found) if found else directory / "config.json"
    if not config_file.is_file() or "visual_config" not in read_json_object(config_file, "settings", CheckpointError):
        return None
    if directory.is_dir():
        return directory
    patterns = ["*.json", "*.safetensors", "*.bin", "tokenizer.model"]
    return Path(snapshot_download(str(name_or_path), allow_patterns=patterns, **hub))


def load_official_checkpoint(directory: Path, config: Owl2Config) -> dict[str, torch.Tensor]:
    """Reads the weights of an official folder and gives them our names. No pickle in a `.bin` file is executed.

    Raises:
        CheckpointError: No weights, a shard is missing, damaged or points out of the folder, or a table is wrong.
    """
    tensors: dict[str, torch.Tensor] = {}
    for file in weight_files(directory):
        tensors.update(read_weights(file))
    if config.tie_word_embeddings and "lm_head.weight" in tensors:
        head, embedding = tensors.pop("lm_head.weight"), tensors.get("model.embed_tokens.weight")
        if embedding is None or not torch.equal(head, embedding):
            raise CheckpointError(
                f"{directory}: lm_head.weight differs from model.embed_tokens.weight, but tie_word_embeddings in its "
                "config.json says that they are one"
            )
    return official_to_owl2(tensors, config)


def save_official(model: PreTrainedModel, directory: str | Path) -> None:
    """Writes a model in the official layout: flat `config.json`, official names, safetensors.

    Raises:
        ValueError: The decoder has parts that the official code does not know.
    """
    config: Owl2Config = model.config
    fields = official_config(config, model.dtype)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    (directory / WEIGHTS_MANIFEST).unlink(missing_ok=True)  # of weights that are replaced
    tensors = owl2_to_official(model.state_dict(), config)
    if config.tie_word_embeddings:  # the official code stores both; of two that share memory only one would be written
        tensors["lm_head.weight"] = tensors["lm_head.weight"].clone()
    save_torch_state_dict(tensors, directory)


def official_config(config: Owl2Config, dtype: torch.dtype) -> dict[str, Any]:
    """The flat configuration that the official code reads.

    Raises:
        ValueError: The decoder has parts that the official code does not know.
    """
    text, vision, abstractor = config.text_config, config.vision_config, config.abstractor_config
    rope = dict(text.rope_parameters or {})
    theta, kind = rope.pop("rope_theta", 10000.0), rope.pop("rope_type", "default")
    unknown = {
        "rope_parameters": kind not in ("default", "linear", "dynamic"),
        "qk_norm": text.qk_norm,
        "mlp_bias": text.mlp_bias,
        "sliding_window": text.sliding_window is not None,
        "attention_output_bias": text.attention_output_bias != text.attention_bias,
        "head_dim": text.head_dim * text.num_attention_heads != text.hidden_size,
        "modality_adaptive": text.modality_adaptive != ["norm", "k", "v"],
        "connector": config.connector != "abstractor",
        "routing": text.routing != "modality",
        "kv_adapter_rank": text.kv_adapter_rank > 0,
        "position_grid_size": vision.position_grid_size
        != (vision.image_size // vision.patch_size if vision.use_cls_token else 16),
    }
    if any(unknown.values()):
        names = ", ".join(name for name, used in unknown.items() if used)
        raise ValueError(f"the official code has no setting for this model's {names}; use save_pretrained instead")
    text_keys = (
        "attention_bias", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "initializer_range",
        "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
        "num_key_value_heads", "pad_token_id", "rms_norm_eps", "tie_word_embeddings", "use_cache", "vocab_size",
    )  # fmt: skip
    visual_model = {key: getattr(vision, key) for key in type(vision).__annotations__ if hasattr(vision, key)}
    visual_model.pop("position_grid_size", None)
    visual_abstractor = {
        key: getattr(abstractor, key) for key in type(abstractor).__annotations__ if hasattr(abstractor, key)
    }
    return {
        **{key: getattr(text, key) for key in text_keys},
        "architectures": ["MPLUGOwl2LlamaForCausalLM"],
        "model_type": "mplug_owl2",
        "rope_theta": theta,
        "rope_scaling": None if kind == "default" else {"type": kind, **rope},
        "torch_dtype": str(dtype).removeprefix("torch."),
        "visual_config": {
            "visual_model": {**visual_model, "model_type": "mplug_owl_vision_model"},
            "visual_abstractor": {
                **visual_abstractor,
                "encoder_hidden_size": abstractor.hidden_size,
                "grid_size": vision.image_size // vision.patch_size,
                "use_cls_token": vision.use_cls_token,
                "model_type": "mplug_owl_visual_abstract",
            },
        },
    }


def _split_fused(name: str, fused: torch.Tensor, heads: int) -> list[torch.Tensor]:
    """Query, key and value rows of the fused linear, whose rows are ordered (head, q/k/v, head_dim)."""
    if fused.ndim == 0 or fused.shape[0] % (3 * heads) != 0:
        raise CheckpointError(f"{name} has shape {tuple(fused.shape)}, whose rows are not 3 x {heads} heads")
    by_head = fused.view(heads, 3, -1, *fused.shape[1:])
    return [by_head[:, index].flatten(0, 1) for index in range(3)]


def _fuse(pieces: list[torch.Tensor], heads: int) -> torch.Tensor:
    return torch.stack([piece.view(heads, -1, *piece.shape[1:]) for piece in pieces], dim=1).flatten(0, 2)


def is_table(name: str) -> bool:
    """Whether an official tensor is one of fixed positions or frequencies."""
    return any(pattern.match(name) for pattern in (_QUERY_TABLE, _PATCH_TABLE, _ROTARY_TABLE))


def fixed_tables(config: Owl2Config) -> dict[str, torch.Tensor]:
    """The fixed tables that the official code stores beside the parameters."""
    tables = {}
    for layer in range(config.abstractor_config.num_hidden_layers):
        stem = f"model.visual_abstractor.encoder.layers.{layer}.crossattention.attention."
        for kind in ("q_pos_embed", "k_pos_embed"):
            tables[stem + kind] = _expected_table(stem + kind, config)
    for layer in range(config.text_config.num_hidden_layers):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        tables[name] = _expected_table(name, config)
    return tables


def _expected_table(name: str, config: Owl2Config, grid_size: int | None = None) -> torch.Tensor:
    vision, abstractor, text = config.vision_config, config.abstractor_config, config.text_config
    if _QUERY_TABLE.match(name):
        return sincos_positions(abstractor.num_learnable_queries, abstractor.hidden_size)
    if _PATCH_TABLE.match(name):
        side = grid_size or vision.image_size // vision.patch_size
        return sincos_grid_positions((side, side), abstractor.hidden_size, int(vision.use_cls_token))
    exponents = torch.arange(0, text.head_dim, 2).float() / text.head_dim
    return 1.0 / ((text.rope_parameters or {}).get("rope_theta", 10000.0) ** exponents)


def _check_table(name: str, table: torch.Tensor, config: Owl2Config) -> None:
    # A table may be for another grid than the images': positions are recomputed for the image at hand in any case.
    grid_size = (
        math.isqrt(max(0, table.shape[0] - int(config.vision_config.use_cls_token))) if table.ndim == 2 else None
    )
    expected = _expected_table(name, config, grid_size)
    tolerance = 1e-5 if table.dtype == torch.float32 else 1e-2
    if table.shape != expected.shape:
        raise CheckpointError(
            f"{name} has shape {tuple(table.shape)}, but the configuration gives {tuple(expected.shape)}"
        )
    difference = (table.float() - expected).abs().max().item()
    if not difference <= tolerance:
        raise CheckpointError(
            f"{name} differs from the computed table by {difference:.2e}: the configuration does not describe this "
            "checkpoint, or the file is damaged"
        )
