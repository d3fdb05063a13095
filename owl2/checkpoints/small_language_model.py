"""A small LLaMA with random weights, and a tokenizer made on the spot: a language model for where none is available."""

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
SMALLEST_VOCABULARY = len(pre_tokenizers.ByteLevel.alphabet()) + len(SPECIAL_TOKENS)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of some texts, with the special tokens of LLaMA; equal texts give equal tokenizers.

    Raises:
        ValueError: The vocabulary does not hold every byte and the special tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        specials = ", ".join(SPECIAL_TOKENS)
        raise ValueError(f"vocab_size {vocab_size} is too small: all bytes and {specials} are {SMALLEST_VOCABULARY}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


def random_language_model(sizes: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A LLaMA of the given sizes (fields of `LlamaConfig`), its weights drawn from torch's generator."""
    config = LlamaConfig(**sizes, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    return LlamaForCausalLM(config)
