"""mPLUG-Owl2 as the continuous batching of transformers calls it: on one row of ids, some of which are of images.

Shapes: S tokens of all requests of a step, D hidden, V vocabulary.
"""

import copy
from typing import Any

import torch
from transformers import LogitsProcessorList
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutput

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.modeling.pretrained import Owl2PreTrainedModel

from .image_table import ImageTable
from .onednn_linear import use_onednn
from .sampler import GumbelSampler


class PagedOwl2(Owl2PreTrainedModel, GenerationMixin):
    """The language decoder of a model over the ids of text and of an image table.

    Args:
        model: The model whose weights are used. Its own attention does not change, since others may use it.
        images: Visual tokens by virtual id.
        sampler: Draws the tokens.
    """

    def __init__(self, model: Owl2ForConditionalGeneration, images: ImageTable, sampler: GumbelSampler) -> None:
        config, language_model, lm_head = _with_shared_weights(
            (model.config, model.model.language_model, model.lm_head)
        )
        super().__init__(config)
        self._tp_plan: dict[str, str] = {}  # what `post_init` would set, which also initialises weights
        self.language_model = language_model
        self.lm_head = lm_head
        use_onednn(self)
        self.images = images
        self.sampler = sampler

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.language_model.embed_tokens

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: Any = None,
        logits_to_keep: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Logits [1, kept, V] of a step.

        Args:
            input_ids: [1, S], the requests one after the other.
            logits_to_keep: The positions that end in a new token.
            kwargs: The paged cache and the beginnings of the requests in it, which the attention gets.
        """
        is_vision = input_ids >= self.images.first_id  # [1, S]
        num_vision = int(is_vision.sum())
        embeddings = self.get_input_embeddings()(input_ids.masked_fill(is_vision, 0))
        if num_vision:
            visual = self.images.lookup(input_ids).to(embeddings.dtype)
            embeddings = torch.where(is_vision.unsqueeze(-1), visual, embeddings)
        kwargs["use_cache"] = False  # the manager keeps it
        hidden = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            is_vision=is_vision if num_vision else None,
            num_vision=num_vision or None,
            **kwargs,
        ).last_hidden_state  # [1, S, D]
        if logits_to_keep is not None:
            hidden = hidden[:, logits_to_keep]
        return CausalLMOutput(logits=self.lm_head(hidden))

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        return self.sampler.as_list()


def _with_shared_weights(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies of a configuration and of modules, which refer to each other as before and hold the same tensors."""
    shared: list[Any] = []
    for part in parts:
        if isinstance(part, torch.nn.Module):
            shared += [*part.parameters(), *part.buffers()]
            # Layers in 8 bits move their weights there when they first run.
            shared += [module.state for module in part.modules() if hasattr(module, "state")]
    return copy.deepcopy(parts, {id(each): each for each in shared})
