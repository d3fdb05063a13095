"""Words that become one token each: in the tokenizer of a stored model, and as rows of its embedding and head.

A score of image quality is read off one position, so that each level must be one token; a small vocabulary spells some
of them in several. (V vocabulary, D hidden)
"""

import copy
import json
from collections.abc import Sequence
from typing import NamedTuple

import torch
from tokenizers import AddedToken, Tokenizer

from owl2.modeling import Owl2Config
from owl2.processing import Owl2Processor
from owl2.processing.tokenization import with_backend

from .convert import EMBEDDING, HEAD, StoredModel
from .lazy_tensors import mapped


class NewWords(NamedTuple):
    """Words that a tokenizer spells in several tokens, and their new tokens.

    Attributes:
        processor: The processor with the new tokens. Its image token lies behind them if it was the last.
        first: Id of the first new token; the others follow.
        spelt: The tokens that each word was until now.
    """

    processor: Owl2Processor
    first: int
    spelt: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, processor: Owl2Processor, words: Sequence[str]) -> "NewWords":
        """New tokens for those of the words that are several tokens after a space.

        A token stands for the space and the word, also where a longer word begins with them.

        Raises:
            ValueError: A word cannot become a token of this tokenizer.
        """
        several = {word: found for word in words if len(found := _ids_after_text(processor, word)) != 1}
        tokenizer, image_token = processor.tokenizer, processor.image_token
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        if processor.image_token_id == len(tokenizer) - 1:  # the processor adds it again, behind the words
            state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] != image_token]
        backend = Tokenizer.from_str(json.dumps(state))
        first = backend.get_vocab_size()
        backend.add_tokens([AddedToken(f" {word}", normalized=False) for word in several])
        extended = Owl2Processor(
            processor.image_processor,
            with_backend(tokenizer, backend),
            processor.chat_template,
            processor.num_image_tokens,
            image_token,
            processor.video_token,
            processor.num_frames,
        )
        for index, word in enumerate(several):
            if _ids_after_text(extended, word) != (first + index,):
                raise ValueError(f"{word!r} cannot become one token of this tokenizer")
        return cls(extended, first, tuple(several.values()))

    def config(self, config: Owl2Config) -> Owl2Config:
        """The configuration of the model with the new tokens."""
        config = copy.deepcopy(config)
        config.text_config.vocab_size = max(config.text_config.vocab_size, self.first + len(self.spelt))
        config.image_token_id = self.processor.image_token_id
        return config

    def model(self, model: StoredModel) -> StoredModel:
        """The model with the new tokens, each of which begins as the mean of those it replaces."""
        tables = {
            name: mapped(model.tensors[name], self._extended) for name in (EMBEDDING, HEAD) if name in model.tensors
        }
        return model._replace(config=self.config(model.config), tensors=model.tensors | tables)

    def _extended(self, table: torch.Tensor) -> torch.Tensor:
        """A table [V, D] with rows for the new tokens."""
        size = max(len(table), self.first + len(self.spelt))
        extended = torch.cat([table, table.new_zeros(size - len(table), table.shape[1])])
        for index, ids in enumerate(self.spelt, start=self.first):
            extended[index] = table[list(ids)].mean(0)
        return extended


def _ids_after_text(processor: Owl2Processor, word: str) -> tuple[int, ...]:
    before, after = (processor.encode_prompt(text)["input_ids"] for text in ("is", f"is {word}"))
    return tuple(after[len(before) :])
