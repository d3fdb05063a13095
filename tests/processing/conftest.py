"""Shared by the tests of the processing: the golden files, and tokenizers of the three common kinds."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, TokenizersBackend

from owl2.processing import Owl2ImageProcessorPil, Owl2Processor

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Golden files recorded from the official code."""
    return Path(os.environ.get("OWL2_REFERENCE", Path(__file__).parents[1] / "goldens"))


@pytest.fixture(scope="session")
def cases(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "tokenizer" / "cases.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def processor(reference: Path) -> Owl2Processor:
    """The reference tokenizer with 3 rows an image and images of 28 pixels."""
    image_processor = Owl2ImageProcessorPil(size={"height": 28, "width": 28})
    return Owl2Processor(image_processor, AutoTokenizer.from_pretrained(reference / "tokenizer"), num_image_tokens=3)


def byte_level_tokenizer(special_tokens: list[str], **settings: Any) -> TokenizersBackend:
    """A byte-level BPE tokenizer as of SmolLM2, Qwen and Llama-3, trained on the spot."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[AddedToken(token, special=True) for token in special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["what is in the image? a cat, and the mat.\n\n"], trainer)
    return TokenizersBackend(tokenizer_object=tokenizer, **settings)


@pytest.fixture
def chatml_processor() -> Owl2Processor:
    """As SmolLM2: no token opens a text, the end of a turn is the end-of-sequence token, a template for text only."""
    tokenizer = byte_level_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        chat_template=CHATML,
    )
    return Owl2Processor(Owl2ImageProcessorPil(size={"height": 28, "width": 28}), tokenizer, num_image_tokens=3)


@pytest.fixture
def llama3_processor() -> Owl2Processor:
    """As Llama-3: byte-level, and a token of its own opens every text."""
    tokenizer = byte_level_tokenizer(["<|begin|>", "<|end|>"], bos_token="<|begin|>", eos_token="<|end|>")
    backend = tokenizer.backend_tokenizer
    opening = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", backend.token_to_id("<|begin|>"))]
    )
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), opening])
    return Owl2Processor(Owl2ImageProcessorPil(size={"height": 28, "width": 28}), tokenizer, num_image_tokens=3)
