"""mPLUG-Owl2: vision encoder, visual abstractor and modality-adaptive language decoder together (paper, Figure 2a).

Shapes: B batch, S sequence, D hidden, V vocabulary, N images of the whole batch (video frames are images), Q queries.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from owl2.labels import IGNORE_INDEX

from .chunked_loss import summed_next_token_loss
from .compatibility import named_cache
from .configuration import Owl2Config
from .generation import Owl2GenerationMixin
from .hashed_routing import sample_keys
from .language_decoder import Owl2LanguageDecoder
from .mlp_connector import Owl2MLPConnector
from .one_row import fast_one_row_products
from .pretrained import Owl2PreTrainedModel
from .vision_encoder import Owl2VisionEncoder
from .visual_abstractor import Owl2VisualAbstractor


@dataclass
class Owl2ModelOutput(BaseModelOutputWithPast):
    """Output of `Owl2Model`.

    Attributes:
        last_hidden_state: [B, S, D].
        past_key_values: Keys and values; since transformers 5.24 `cache`.
        image_hidden_states: [N, Q + 1, D] visual tokens as the decoder reads them.
        attentions: Decoder, a tuple of [B, heads, S, T]; `vision_attentions` [N, heads, T, T] and
            `abstractor_attentions` [N, heads, Q, Q + T] likewise, with `output_attentions=True` and eager attention.
    """

    image_hidden_states: torch.Tensor | None = None
    vision_attentions: tuple[torch.Tensor, ...] | None = None
    abstractor_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class Owl2CausalLMOutput(CausalLMOutputWithPast):
    """Output of `Owl2ForConditionalGeneration`: loss, logits [B, S, V] and the fields of `Owl2ModelOutput`."""

    image_hidden_states: torch.Tensor | None = None
    vision_attentions: tuple[torch.Tensor, ...] | None = None
    abstractor_attentions: tuple[torch.Tensor, ...] | None = None


class Owl2Model(Owl2PreTrainedModel):
    """mPLUG-Owl2 without the language modelling head."""

    def __init__(self, config: Owl2Config) -> None:
        super().__init__(config)
        self.vision_tower = Owl2VisionEncoder(config.vision_config)
        connector = Owl2MLPConnector if config.connector == "mlp" else Owl2VisualAbstractor
        self.abstractor = connector(config.abstractor_config, config.text_config.hidden_size)
        self.language_model = Owl2LanguageDecoder(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.language_model.embed_tokens = value

    def encode_images(self, pixel_values: torch.Tensor, **kwargs: Any) -> Owl2ModelOutput:
        """Visual tokens [N, Q + 1, D] of images [N, 3, H, W], in `image_hidden_states`, with attentions on request."""
        patch = self.config.vision_config.patch_size
        grid = (pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch)
        vision = self.vision_tower(pixel_values, **kwargs)
        visual = self.abstractor(vision.last_hidden_state, grid=grid, num_prefix=self.vision_tower.num_prefix, **kwargs)
        return Owl2ModelOutput(
            image_hidden_states=visual.last_hidden_state,
            vision_attentions=vision.attentions,
            abstractor_attentions=visual.attentions,
        )

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Visual tokens in the transformers convention: `pooler_output` lists one [Q + 1, D] tensor an image."""
        features = self.encode_images(pixel_values, **kwargs).image_hidden_states
        assert features is not None
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=list(features))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        mm_token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        routing_key: torch.LongTensor | None = None,
        image_hidden_states: torch.FloatTensor | None = None,
        **kwargs: Any,
    ) -> Owl2ModelOutput:
        """Reads text and pictures together.

        Args:
            input_ids: [B, S] with the image token id at each of the Q + 1 rows of an image.
            pixel_values: [N, C, H, W] in the order of their placeholders over the batch; absent if there are none.
            attention_mask: [B, past + S], 0 at padding, on either side.
            position_ids: [B, S]; without an attention mask, each place where they restart begins another packed sample.
            mm_token_type_ids: [B, S], 0 text, 1 image, 2 video: the modality indicator M. By default taken from
                `input_ids`.
            past_key_values, cache: Two names of the same: the keys and values of the tokens read so far.
            routing_key: [B, S] or [B, 1], only for controls that route by a hash: tells samples apart. By default that
                of `input_ids`, which then must be whole samples.

        Raises:
            ValueError: The numbers of images and of placeholder rows do not agree, or pixel_values have another shape.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        self._check_attention_output(kwargs)
        if pixel_values is not None and pixel_values.shape[0] == 0:
            pixel_values = None
        is_vision = self.modality_indicator(
            input_ids, inputs_embeds, mm_token_type_ids, pixel_values, image_hidden_states
        )
        if input_ids is not None:
            text_ids = input_ids if is_vision is None else input_ids.masked_fill(is_vision, 0)
            inputs_embeds = self.get_input_embeddings()(text_ids)
        assert inputs_embeds is not None
        visual, num_vision = Owl2ModelOutput(image_hidden_states=image_hidden_states), None
        if pixel_values is not None:
            recorded = {key: kwargs[key] for key in ("output_attentions",) if key in kwargs}
            visual = self.encode_images(pixel_values, **recorded)
        if visual.image_hidden_states is not None:
            assert is_vision is not None
            features = visual.image_hidden_states.to(inputs_embeds.dtype)
            num_vision = features.shape[0] * features.shape[1]
            inputs_embeds = inputs_embeds.masked_scatter(is_vision.unsqueeze(-1), features)
        elif self.training and is_vision is None:
            inputs_embeds = inputs_embeds + self._unused_vision()
        if self.config.text_config.routing != "modality":
            kwargs["routing_key"] = self._routing_key(input_ids, attention_mask, position_ids, routing_key)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            is_vision=is_vision,
            num_vision=num_vision,
            use_cache=use_cache,
            **named_cache(past_key_values, cache),
            **kwargs,
        )
        return Owl2ModelOutput(
            **outputs,
            image_hidden_states=visual.image_hidden_states,
            vision_attentions=visual.vision_attentions,
            abstractor_attentions=visual.abstractor_attentions,
        )

    def _routing_key(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        given: torch.Tensor | None,
    ) -> torch.Tensor:
        if given is not None:
            return given
        if input_ids is None or (attention_mask is not None and attention_mask.shape != input_ids.shape):
            raise ValueError("a model that routes by a hash needs input_ids of whole samples, or their routing_key")
        return sample_keys(input_ids, attention_mask, position_ids)

    def modality_indicator(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        mm_token_type_ids: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
        image_hidden_states: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """A mask of the visual tokens, [B, S] bool; `None` if every token is text.

        Raises:
            ValueError: The images do not fill the placeholders, have another shape, or are given twice.
        """
        given = inputs_embeds if input_ids is None else input_ids
        assert given is not None
        length = given.shape[1]
        if pixel_values is not None:
            self._check_pixels(pixel_values)
        if image_hidden_states is not None:
            self._check_encoded(image_hidden_states, pixel_values)
        images = pixel_values if image_hidden_states is None else image_hidden_states
        if images is None and length == 1:
            return None  # a decoding step
        if mm_token_type_ids is not None:
            is_vision = mm_token_type_ids[:, -length:] != 0  # transformers 5.17 passes the types of the whole sequence
        elif input_ids is not None:
            is_vision = input_ids == self.config.image_token_id
        elif images is None:
            return None
        else:
            raise ValueError("inputs_embeds with images need mm_token_type_ids to say where the images go")
        if not torch.compiler.is_compiling():
            num_images = 0 if images is None else images.shape[0]
            placed = is_vision if input_ids is None else is_vision | (input_ids == self.config.image_token_id)
            num_rows, marked = torch.stack([placed.sum(), is_vision.sum()]).tolist()  # one wait for the device
            # Embeddings that already hold the visual tokens come without pixels.
            given_as_embeddings = input_ids is None and num_images == 0
            if not given_as_embeddings and not num_rows == marked == num_images * self.config.tokens_per_image:
                raise ValueError(
                    f"{num_images} images take {num_images * self.config.tokens_per_image} rows "
                    f"({self.config.tokens_per_image} each), but the batch has {num_rows} placeholder rows, of which "
                    f"{marked} are marked as vision. Give one image for each placeholder, in their order"
                )
            if num_rows == 0:
                return None
        elif images is None and input_ids is not None:
            return None
        return is_vision

    def _check_pixels(self, pixel_values: torch.Tensor) -> None:
        channels = self.config.vision_config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            raise ValueError(
                f"pixel_values have the shape {list(pixel_values.shape)}, but must be [N, {channels}, H, W]: all "
                "images of the batch, one after the other"
            )
        size = self.config.vision_config.image_size
        if self.config.connector == "mlp" and tuple(pixel_values.shape[2:]) != (size, size):
            raise ValueError(
                f"images of {pixel_values.shape[2]} x {pixel_values.shape[3]} pixels, but with the connector 'mlp', "
                f"which keeps every patch, this model takes images of {size} x {size}: see set_image_size"
            )

    def _check_encoded(self, image_hidden_states: torch.Tensor, pixel_values: torch.Tensor | None) -> None:
        if pixel_values is not None:
            raise ValueError("give images as pixel_values or, encoded already, as image_hidden_states; not as both")
        shape = (self.config.tokens_per_image, self.config.text_config.hidden_size)
        if image_hidden_states.ndim != 3 or image_hidden_states.shape[1:] != shape:
            raise ValueError(
                f"image_hidden_states have the shape {list(image_hidden_states.shape)}, but must be "
                f"[N, {shape[0]}, {shape[1]}]: the visual tokens of each image"
            )

    def _unused_vision(self) -> torch.Tensor:
        """A zero that depends on every vision parameter: a rank without images then has gradients like the others."""
        config = self.config.vision_config
        weight = self.vision_tower.patch_embedding.weight
        # Not `new_zeros`: between the forward passes of its part a sharded weight is distributed.
        if not weight.requires_grad and not any(parameter.requires_grad for parameter in self.abstractor.parameters()):
            return torch.zeros((), dtype=weight.dtype, device=weight.device)
        shape = (1, config.num_channels, config.patch_size, config.patch_size)
        blank = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        features = self.encode_images(blank).image_hidden_states
        assert features is not None
        return 0.0 * features.sum()

    def _check_attention_output(self, kwargs: dict[str, Any]) -> None:
        wanted = kwargs.get("output_attentions") or self.config.output_attentions
        implementation = self.config._attn_implementation
        if wanted and implementation != "eager":
            raise ValueError(
                f"attention maps need eager attention, but the model runs {implementation!r}: call "
                "model.set_attn_implementation('eager') or load it with attn_implementation='eager'"
            )


class Owl2ForConditionalGeneration(Owl2PreTrainedModel, Owl2GenerationMixin):
    """mPLUG-Owl2 with the language modelling head: the loss, and `generate()`."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: Owl2Config) -> None:
        super().__init__(config)
        self.model = Owl2Model(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        return self.model.get_image_features(pixel_values, **kwargs)

    def set_image_size(self, image_size: int) -> None:
        """Changes the resolution permanently: see `Owl2VisionEncoder.set_image_size`."""
        self.model.vision_tower.set_image_size(image_size)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        mm_token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: int | torch.Tensor | None = None,
        supervised_logits_only: bool = False,
        loss_only: bool = False,
        cache: Cache | None = None,
        routing_key: torch.LongTensor | None = None,
        image_hidden_states: torch.FloatTensor | None = None,
        **kwargs: Any,
    ) -> Owl2CausalLMOutput:
        """Language modelling over text and pictures; see `Owl2Model.forward` for the inputs.

        Args:
            labels: [B, S], -100 where there is nothing to learn. Visual rows are never learnt, whatever their label.
            logits_to_keep: The number of last positions to compute (0: all), or their indices.
            num_items_in_batch: Divides the summed loss; by default the number of supervised tokens here.
            supervised_logits_only: Logits only where the next token is supervised, [supervised, V]: the head over all
                positions is a large part of a small model.
            loss_only: The same loss and no logits: memory does not grow with positions times vocabulary.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            mm_token_type_ids=mm_token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            routing_key=routing_key,
            image_hidden_states=image_hidden_states,
            **named_cache(past_key_values, cache),
            **kwargs,
        )
        hidden_states, targets = outputs.last_hidden_state, None
        if labels is not None:
            targets = self._targets(labels, input_ids, mm_token_type_ids, attention_mask)
        fields = {key: value for key, value in outputs.items() if key != "last_hidden_state"}
        if supervised_logits_only or loss_only:
            if targets is None:
                raise ValueError("supervised_logits_only and loss_only need labels")
            supervised = targets != IGNORE_INDEX
            hidden_states, targets = hidden_states[supervised], targets[supervised]
        if loss_only:
            assert targets is not None
            total = summed_next_token_loss(self.lm_head, hidden_states, targets, self.config.text_config.vocab_size)
            return Owl2CausalLMOutput(loss=_divided(total, num_items_in_batch, len(targets)), **fields)
        if not supervised_logits_only and (isinstance(logits_to_keep, torch.Tensor) or logits_to_keep > 0):
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            hidden_states = hidden_states[:, kept]
            targets = targets[:, kept] if targets is not None else None
        with fast_one_row_products(hidden_states):
            logits = self.lm_head(hidden_states)
        loss = None if targets is None else next_token_loss(logits, targets, num_items_in_batch)
        return Owl2CausalLMOutput(loss=loss, logits=logits, **fields)

    def _targets(
        self,
        labels: torch.Tensor,
        input_ids: torch.Tensor | None,
        mm_token_type_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The token that each position predicts, [B, S]: the next label, without visual rows and padding."""
        if mm_token_type_ids is not None:
            labels = labels.masked_fill(mm_token_type_ids != 0, IGNORE_INDEX)
        elif input_ids is not None:
            labels = labels.masked_fill(input_ids == self.config.image_token_id, IGNORE_INDEX)
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
        if attention_mask is not None and attention_mask.shape == targets.shape:
            # Padding on the left must not learn the first token of the sample.
            targets = targets.masked_fill(attention_mask == 0, IGNORE_INDEX)
        return targets


def next_token_loss(
    logits: torch.Tensor, targets: torch.Tensor, num_items_in_batch: int | torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross-entropy in float32 over the positions whose target is not -100; 0 if there is none.

    Args:
        logits: [..., V].
        targets: [...] of the same leading shape.
        num_items_in_batch: Number to divide by instead, for gradient accumulation and several ranks.
    """
    total = F.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten().to(logits.device), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return _divided(total, num_items_in_batch, (targets != IGNORE_INDEX).sum())


def _divided(total: torch.Tensor, wanted: int | torch.Tensor | None, count: int | torch.Tensor) -> torch.Tensor:
    """A summed loss divided by the given number of tokens or, without it, by their count."""
    return total / torch.as_tensor(count if wanted is None else wanted, device=total.device).clamp(min=1)
