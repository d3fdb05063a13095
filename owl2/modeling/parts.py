"""The parts of the model that train or stay frozen, by the names of their parameters."""

import re
from collections.abc import Iterable

from .configuration import Owl2TextConfig

_PARTS = {
    "vision_encoder": r"^model\.vision_tower\.",
    "abstractor": r"^model\.abstractor\.",
    "decoder_vision": r"^model\.language_model\..*(vision_|[kv]_adapter\.)",
    "embeddings": r"^model\.language_model\.embed_tokens\.|^lm_head\.",
    "decoder_text": r"^model\.language_model\.layers\.",  # the separate parts' text copies; see part_of
    "decoder_shared": r"^model\.language_model\.",
}


PARTS = tuple(_PARTS)
"""Vision encoder; visual abstractor; and the decoder's vision copies (or the adapters in their place in a control),
embeddings, text copies and the rest."""


def part_of(name: str, modality_adaptive: Iterable[str]) -> str:
    """The part that a parameter belongs to."""
    plain = plain_name(name)
    for part, pattern in _PARTS.items():
        if not re.match(pattern, plain):
            continue
        if part != "decoder_text" or _is_separate(plain, modality_adaptive):
            return part
    raise ValueError(f"the parameter {name} belongs to none of {', '.join(PARTS)}")


def _is_separate(name: str, modality_adaptive: Iterable[str]) -> bool:
    """Whether the parameter has a copy for vision."""
    kinds = {
        "norm": r"layernorm\.weight$",
        "q": r"\.q_proj\.",
        "k": r"\.k_proj\.",
        "v": r"\.v_proj\.",
        "ffn": r"\.mlp\.",
    }
    return any(re.search(kinds[kind], name) for kind in modality_adaptive)


def is_language_model(name: str) -> bool:
    """Whether a parameter came with the language model: everything in the decoder and head but the vision copies."""
    return not re.match(
        rf"{_PARTS['vision_encoder']}|{_PARTS['abstractor']}|{_PARTS['decoder_vision']}", plain_name(name)
    )


def plain_name(name: str) -> str:
    """The name of a parameter in the model itself, without the wrappers of PEFT, checkpointing and compilation."""
    return re.sub(
        r"^base_model\.model\.|\b_orig_mod\.|\b_checkpoint_wrapped_module\.|\bbase_layer\.|\bmodules_to_save\.\w+\.",
        "",
        name,
    )


def projection_sizes(config: Owl2TextConfig) -> dict[str, tuple[int, int]]:
    """Input and output width of every projection of a decoder layer, vision copies included."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    sizes = {"q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
    copies = {f"vision_{name}": size for name, size in sizes.items() if name[0] in config.modality_adaptive}
    mlp = {"gate_proj": (hidden, intermediate), "up_proj": (hidden, intermediate), "down_proj": (intermediate, hidden)}
    if "ffn" in config.modality_adaptive:
        copies |= {f"vision_{name}": size for name, size in mlp.items()}
    rank = config.kv_adapter_rank
    adapters: dict[str, tuple[int, int]] = {}
    if rank:
        for name in ("k_adapter", "v_adapter"):
            adapters |= {f"{name}.down": (hidden, rank), f"{name}.up": (rank, keys)}
    return {**sizes, **copies, **adapters, "o_proj": (queries, hidden), **mlp}


def part_of_projection(config: Owl2TextConfig, name: str) -> str:
    """Part of `owl2.modeling.parts.PARTS` that a decoder's projection belongs to."""
    if name.startswith(("vision_", "k_adapter", "v_adapter")):
        return "decoder_vision"
    return "decoder_text" if f"vision_{name}" in projection_sizes(config) else "decoder_shared"
