"""The tokenizer of `--tokenizer-mode owl2`: that of owl2's processor.

AutoTokenizer's would be right for a folder that owl2 saved. For an official one (only `tokenizer.model`) its ids are
not SentencePiece's, and there is no image token.
"""

from typing import Any

from transformers import AddedToken
from vllm.tokenizers.hf import HfTokenizer, get_cached_tokenizer

from owl2.checkpoints.loading import load_processor


class Owl2Tokenizer:
    """A class that loads the tokenizer, as vLLM's registry of tokenizers requires."""

    @classmethod
    def from_pretrained(cls, directory: Any, *args: Any, **kwargs: Any) -> HfTokenizer:
        """Loads from a local folder; the video placeholder becomes a token too, so that it has an id.

        Raises:
            ValueError: As `load_processor`.
        """
        processor = load_processor(directory)
        tokenizer = processor.tokenizer
        if processor.video_token not in tokenizer.get_vocab():
            token = AddedToken(processor.video_token, normalized=False, special=True)
            tokenizer.add_tokens([token], special_tokens=True)
        tokenizer.chat_template = processor.chat_template
        tokenizer.truncation_side = kwargs.get("truncation_side", tokenizer.truncation_side)
        return get_cached_tokenizer(tokenizer)
