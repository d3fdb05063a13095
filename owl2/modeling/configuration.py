"""Configuration of mPLUG-Owl2 and of its three parts (paper, section 3.2).

`Owl2Config` nests a vision, an abstractor and a text configuration. It also reads the flat `config.json` of the
official code (LLaMA fields beside `visual_config`) and always saves the nested form.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

MODALITY_ADAPTIVE_PARTS = ("norm", "q", "k", "v", "ffn")
"""Parts of a decoder layer that may be separate for vision and text (section 3.3; supplement, Table 2)."""

NO_FSDP_PLAN: dict[str, str] = {}
"""transformers' default plan names modules that these parts do not have."""

ROUTINGS = ("modality", "hash", "hash_vision")
"""The rules that send tokens to the second copies: the paper's modality, or a control (`hashed_routing`)."""


CONNECTORS = ("abstractor", "mlp")
"""The connectors of vision encoder and decoder: the paper's visual abstractor, or LLaVA's MLP over all patches."""


class Owl2VisionConfig(PreTrainedConfig):
    """CLIP ViT; the defaults are ViT-L/14 at 448 px.

    Args:
        position_grid_size: Side of the grid of learned positions; by default that of `image_size`. Images with another
            grid use bicubic interpolation.
        use_cls_token: A class token in front of the patches; it goes to the abstractor too.
        use_post_layernorm: A final layer norm over all tokens.
    """

    model_type = "mplug_owl2_vision"
    base_config_key = "vision_config"
    base_model_fsdp_plan = NO_FSDP_PLAN

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 448
    patch_size: int = 14
    if TYPE_CHECKING:
        position_grid_size: int  # not given only before `__post_init__`
    else:
        position_grid_size: int | None = None
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    use_cls_token: bool = True
    use_post_layernorm: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        _require_positive(self, "hidden_size", "intermediate_size", "num_attention_heads", "num_channels")
        _require_positive(self, "image_size", "patch_size", "num_hidden_layers")
        _require_activation(self)
        _require_number(self, "layer_norm_eps", "initializer_range")
        if self.image_size % self.patch_size != 0:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"vision hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        if self.position_grid_size is None:
            self.position_grid_size = self.image_size // self.patch_size
        super().__post_init__(**kwargs)


class Owl2AbstractorConfig(PreTrainedConfig):
    """Visual abstractor: learnable queries that read the patches (section 3.2, eq. 1-2).

    `hidden_size` is the vision encoder's.

    Args:
        num_learnable_queries: Visual tokens per image, without the end-of-image token that follows them.
        layer_norm_eps: Epsilon of the norm inside SwiGLU; the other norms of a layer use 1e-5 as the official code
            does.
    """

    model_type = "mplug_owl2_abstractor"
    base_config_key = "abstractor_config"
    base_model_fsdp_plan = NO_FSDP_PLAN

    hidden_size: int = 1024
    intermediate_size: int = 2816
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    num_learnable_queries: int = 64
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        _require_positive(self, "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        _require_positive(self, "num_learnable_queries")
        _require_number(self, "layer_norm_eps", "initializer_range")
        if self.hidden_size % self.num_attention_heads != 0 or self.hidden_size % 4 != 0:
            raise ValueError(
                f"abstractor hidden_size {self.hidden_size} must be a multiple of 4 and of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        super().__post_init__(**kwargs)


class Owl2TextConfig(PreTrainedConfig):
    """Language decoder of the LLaMA family around the modality-adaptive module; the defaults are LLaMA-2-7B.

    Args:
        modality_adaptive: Which of `norm`, `q`, `k`, `v` have a copy of their own for vision. `("norm", "k", "v")` is
            the paper's module, `()` the plain decoder, the others the rows of the supplement's Table 2; `ffn` separates
            the feed-forward network, which the paper shares.
        routing: The rule that sends tokens to the copies: `modality`, or for controls `hash` (any token, by its
            sample and position) and `hash_vision` (visual tokens alone, by the same).
        routing_share, routing_seed: Share of the tokens that a hash sends to the copies, and its seed.
        kv_adapter_rank: A control without copies: low-rank adapters of keys and values that every token goes through.
        attention_bias: Bias of the query, key and value projections; `attention_output_bias` defaults to the same.
        qk_norm: RMS norm of each query and key head (Qwen3).
        sliding_window: Tokens that a position may attend to (Mistral 7B v0.1), all if `None`.
    """

    model_type = "mplug_owl2_text"
    base_config_key = "text_config"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.vision_q_proj": "colwise",
        "layers.*.self_attn.vision_k_proj": "colwise",
        "layers.*.self_attn.vision_v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
        "layers.*.vision_mlp.gate_proj": "colwise",
        "layers.*.vision_mlp.up_proj": "colwise",
        "layers.*.vision_mlp.down_proj": "rowwise",
    }

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    if TYPE_CHECKING:
        num_key_value_heads: int  # not given only before `__post_init__`, as the next two
        head_dim: int
        attention_output_bias: bool
    else:
        num_key_value_heads: int | None = None
        head_dim: int | None = None
        attention_output_bias: bool | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    rope_parameters: dict | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    modality_adaptive: list[str] | tuple[str, ...] = ("norm", "k", "v")
    routing: str = "modality"
    routing_share: float = 0.5
    routing_seed: int = 0
    kv_adapter_rank: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        _require_positive(self, "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        _require_positive(self, "num_attention_heads", "num_key_value_heads", "max_position_embeddings")
        _require_activation(self)
        _require_number(self, "rms_norm_eps", "initializer_range")
        _require_rope(self, self.rope_parameters if self.rope_parameters is not None else kwargs.get("rope_scaling"))
        if self.num_attention_heads % self.num_key_value_heads != 0:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads != 0:
                raise ValueError(
                    f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                    f"{self.num_attention_heads}; give head_dim"
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.attention_output_bias is None:
            self.attention_output_bias = self.attention_bias
        if isinstance(self.modality_adaptive, str) or set(self.modality_adaptive) - set(MODALITY_ADAPTIVE_PARTS):
            raise ValueError(
                f"modality_adaptive is {self.modality_adaptive!r}, but must be a list of parts among "
                f"{', '.join(MODALITY_ADAPTIVE_PARTS)}"
            )
        self.modality_adaptive = [part for part in MODALITY_ADAPTIVE_PARTS if part in self.modality_adaptive]
        if self.routing not in ROUTINGS:
            raise ValueError(f"routing is {self.routing!r}, but must be one of {', '.join(ROUTINGS)}")
        if not 0 < self.routing_share < 1:
            raise ValueError(f"routing_share is {self.routing_share}, but must be between 0 and 1")
        if not isinstance(self.kv_adapter_rank, int) or self.kv_adapter_rank < 0:
            raise ValueError(f"kv_adapter_rank is {self.kv_adapter_rank!r}, but must be a whole number from 0 on")
        require_token_ids(self.model_type, vars(self))
        super().__post_init__(**kwargs)


class Owl2Config(PreTrainedConfig):
    """mPLUG-Owl2: vision encoder, visual abstractor and language decoder.

    Args:
        connector: One of `CONNECTORS`. With "mlp" only `hidden_size` and `initializer_range` of the abstractor's
            configuration count, and images must have `image_size`, which decides how many rows they take.
        image_token_id: Id of the placeholder that each visual token takes in `input_ids`. By default `vocab_size` of
            the text part: outside the embedding, in which the model never looks it up.
    """

    model_type = "mplug_owl2"
    # By this TRL chooses the Auto class of a model that it is given by name. It is not saved, and transformers prefers
    # the registered class.
    auto_map: ClassVar[dict[str, str]] = {"AutoModelForImageTextToText": "owl2.Owl2ForConditionalGeneration"}
    sub_configs = {
        "vision_config": Owl2VisionConfig,
        "abstractor_config": Owl2AbstractorConfig,
        "text_config": Owl2TextConfig,
    }
    base_model_fsdp_plan = NO_FSDP_PLAN

    if TYPE_CHECKING:
        vision_config: Owl2VisionConfig  # a dictionary or not given only before `__post_init__`, as the next ones
        abstractor_config: Owl2AbstractorConfig
        text_config: Owl2TextConfig
        image_token_id: int
    else:
        vision_config: dict | PreTrainedConfig | None = None
        abstractor_config: dict | PreTrainedConfig | None = None
        text_config: dict | PreTrainedConfig | None = None
        image_token_id: int | None = None
    tie_word_embeddings: bool = False
    connector: str = "abstractor"

    def __post_init__(self, **kwargs: Any) -> None:
        if self.connector not in CONNECTORS:
            raise ValueError(f"connector is {self.connector!r}, but must be one of {', '.join(CONNECTORS)}")
        if "visual_config" in kwargs:
            if self.connector != "abstractor":
                raise ValueError(f"the official layout has the visual abstractor, not the connector {self.connector!r}")
            self._read_official(kwargs)
        for name, config_class in self.sub_configs.items():
            value = getattr(self, name)
            if not isinstance(value, config_class):
                setattr(self, name, config_class(**_without_model_type(name, value)))
        if self.abstractor_config.hidden_size != self.vision_config.hidden_size:
            raise ValueError(
                f"abstractor hidden_size {self.abstractor_config.hidden_size} differs from vision hidden_size "
                f"{self.vision_config.hidden_size}: queries and patches are concatenated, so they must agree"
            )
        if self.image_token_id is None:
            self.image_token_id = self.text_config.vocab_size
        self.tie_word_embeddings = self.tie_word_embeddings or self.text_config.tie_word_embeddings
        self.text_config.tie_word_embeddings = self.tie_word_embeddings
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            kwargs.setdefault(key, getattr(self.text_config, key))
        require_token_ids(self.model_type, {**kwargs, "image_token_id": self.image_token_id})
        _require_dtype(self, kwargs.get("dtype", self.dtype))
        super().__post_init__(**kwargs)

    @property
    def tokens_per_image(self) -> int:
        """Rows that one image takes: the learnable queries and the end-of-image token, or with an MLP the patches."""
        if self.connector == "mlp":
            return (self.vision_config.image_size // self.vision_config.patch_size) ** 2
        return self.abstractor_config.num_learnable_queries + 1

    def _read_official(self, kwargs: dict[str, Any]) -> None:
        """Moves the fields of the official flat configuration to the three parts."""
        visual = _without_model_type("visual_config", kwargs.pop("visual_config"))
        vision = _without_model_type("visual_model", visual.get("visual_model"))
        abstractor = _without_model_type("visual_abstractor", visual.get("visual_abstractor"))
        use_cls_token = vision.get("use_cls_token", True)
        if not use_cls_token:
            # Without a class token the official table has 256 rows whatever the size of the images (official code,
            # mplug_owl2/model/visual_encoder.py, MplugOwlVisionEmbeddings).
            vision["position_grid_size"] = 16
        text_keys = [*_fields(Owl2TextConfig), "rope_theta", "rope_scaling"]
        text = {key: kwargs.pop(key) for key in text_keys if key in kwargs}
        parts = {
            "vision_config": {key: vision[key] for key in _fields(Owl2VisionConfig) if key in vision},
            "abstractor_config": {key: abstractor[key] for key in _fields(Owl2AbstractorConfig) if key in abstractor},
            "text_config": {**text, "tie_word_embeddings": self.tie_word_embeddings},
        }
        for name, settings in parts.items():
            setattr(self, name, settings)
        # Official fields that the architecture does not depend on.
        for key in ("pretraining_tp", "use_cache", "hidden_act"):
            kwargs.pop(key, None)


def _require_positive(config: PreTrainedConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{config.model_type} {name} is {value!r}, but must be a whole number of at least 1")


def _fields(config_class: type[PreTrainedConfig]) -> list[str]:
    """Names of the fields that the class itself declares."""
    return list(config_class.__annotations__)


def _require_number(config: PreTrainedConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{config.model_type} {name} is {value!r}, but must be a number from 0 on")


def _require_rope(config: PreTrainedConfig, settings: Any) -> None:
    if settings is None:
        return
    if not isinstance(settings, dict):
        raise ValueError(f"{config.model_type} rope_parameters must be a mapping of settings, but is {settings!r:.100}")
    kind = settings.get("rope_type", settings.get("type", "default"))
    if not isinstance(kind, str) or kind != "default" and kind not in ROPE_INIT_FUNCTIONS:
        known = ", ".join(dict.fromkeys(["default", *ROPE_INIT_FUNCTIONS]))
        raise ValueError(f"{config.model_type} rope_type is {kind!r}, but must be one of {known}")


def require_token_ids(what: object, settings: Mapping[str, Any], error: type[ValueError] = ValueError) -> None:
    """Refuses ids of special tokens that are not whole numbers; a text may have several ends.

    Args:
        what: What the settings belong to, for the message.
        error: Class of the error.

    Raises:
        ValueError: An id is something else; the message has its key and value.
    """
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "image_token_id"):
        value = settings.get(key)
        ids = value if isinstance(value, list) and key == "eos_token_id" else [0 if value is None else value]
        if not all(isinstance(each, int) and not isinstance(each, bool) for each in ids):
            wanted = "a whole number or a list of them" if key == "eos_token_id" else "a whole number"
            raise error(f"{what} {key} is {value!r:.100}, but must be {wanted}")


def _require_dtype(config: PreTrainedConfig, dtype: Any) -> None:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not isinstance(found, torch.dtype):
        raise ValueError(f"{config.model_type} dtype is {dtype!r:.100}, but must be one of torch, such as bfloat16")


def _require_activation(config: PreTrainedConfig) -> None:
    if not isinstance(config.hidden_act, str) or config.hidden_act not in ACT2FN:
        raise ValueError(f"{config.model_type} hidden_act is {config.hidden_act!r}, which transformers does not know")


def _without_model_type(name: str, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict | PreTrainedConfig):
        raise ValueError(f"{name} must hold the settings of a part, but is {value!r:.100}")
    fields = value.to_dict() if isinstance(value, PreTrainedConfig) else dict(value or {})
    fields.pop("model_type", None)
    return fields
