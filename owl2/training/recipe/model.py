"""Section `model` of a recipe: the model at the first step."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from .base import NotNegative, Positive, Section

Word = Annotated[str, Field(pattern=r"^\S+$")]


class SmallLanguageModel(Section):
    """A small LLaMA with random weights, and a tokenizer made from the texts of the data: needs no files."""

    vocab_size: Positive = 2048
    hidden_size: Positive = 128
    intermediate_size: Positive = 336
    num_hidden_layers: Positive = 3
    num_attention_heads: Positive = 4
    num_key_value_heads: Positive | None = None
    max_position_embeddings: Positive = 1024
    initializer_range: float = 0.06
    tie_word_embeddings: bool = True


class VisionSizes(Section):
    """Sizes of a random vision encoder, whose resolution is `data.image_size`."""

    hidden_size: Positive = 1024
    intermediate_size: Positive = 4096
    num_hidden_layers: Positive = 24
    num_attention_heads: Positive = 16
    patch_size: Positive = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02


class AbstractorSizes(Section):
    """Sizes of the visual abstractor (section 4.1: 6 layers, 64 learnable queries)."""

    intermediate_size: Positive = 2816
    num_hidden_layers: Positive = 6
    num_attention_heads: Positive = 16
    num_learnable_queries: Positive = 64
    initializer_range: float = 0.02


class Initialize(Section):
    """A new model: a language model, a CLIP ViT and a random abstractor.

    Attributes:
        language_model: Directory or `.gguf` file of a LLaMA-family model, or sizes of a random one.
        vision_encoder: Directory of a CLIP checkpoint, or of an mPLUG-Owl2, whose abstractor is then taken along, but
            for its projection, and must have the sizes `abstractor`. Without it the encoder is random, of the sizes
            `vision`.
        connector: The paper's visual abstractor, or an MLP over all patches as in LLaVA-1.5 (2 layers, GELU), for which
            only `initializer_range` of `abstractor` counts.
    """

    language_model: str | SmallLanguageModel
    vision_encoder: str | None = None
    vision: VisionSizes | None = None
    abstractor: AbstractorSizes = AbstractorSizes()
    connector: Literal["abstractor", "mlp"] = "abstractor"

    @model_validator(mode="after")
    def _one_vision_encoder(self) -> Self:
        if self.vision_encoder is not None and self.vision is not None:
            raise ValueError("vision_encoder decides the sizes of the vision encoder: leave vision out")
        return self


class ModelSettings(Section):
    """The model at the first step; if both `checkpoint` and `initialize` are given, the last one counts.

    Attributes:
        checkpoint: Directory of a whole mPLUG-Owl2 in our or the official layout.
        adapter: Adapter folder of an earlier run on that checkpoint, whose training continues; it needs `train.lora`.
        initialize: A new model.
        new_words: Words that become one token each of the checkpoint where they are several, see
            `owl2.checkpoints.new_words`.
        modality_adaptive: Parts of a decoder layer with a copy for vision, [norm, k, v] for a new model by default. A
            checkpoint must have exactly these, if they are given.
        routing, routing_share, routing_seed, kv_adapter_rank: Controls of the module, see `Owl2TextConfig`; a
            checkpoint must have exactly these, if they are given.
        attention: Implementation of attention in the language decoder, the vision encoder and the abstractor.
    """

    checkpoint: str | None = None
    adapter: str | None = None
    initialize: Initialize | None = None
    new_words: tuple[Word, ...] = ()
    modality_adaptive: tuple[Literal["norm", "q", "k", "v", "ffn"], ...] | None = None
    routing: Literal["modality", "hash", "hash_vision"] | None = None
    routing_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    routing_seed: int | None = None
    kv_adapter_rank: NotNegative | None = None
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if (self.checkpoint is None) == (self.initialize is None):
            raise ValueError(
                "give exactly one of checkpoint (a directory) and initialize (what a new model is made of)"
            )
        if self.adapter is not None and self.checkpoint is None:
            raise ValueError("adapter goes on top of the model it was trained on: give that as checkpoint")
        if self.new_words and self.checkpoint is None:
            raise ValueError("new_words are for a checkpoint: a new model has the words of its language model")
        return self

    def controls(self) -> dict[str, Any]:
        """The settings of controls that are given, as fields of `Owl2TextConfig`."""
        names = ("routing", "routing_share", "routing_seed", "kv_adapter_rank")
        return {name: value for name in names if (value := getattr(self, name)) is not None}
