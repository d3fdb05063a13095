"""Words that become one token each of a stored model."""

from pathlib import Path

import pytest
import torch
from helpers import tiny_config, tiny_model
from PIL import Image

from owl2 import Owl2ForConditionalGeneration, Owl2ImageProcessor, Owl2Processor
from owl2.checkpoints.convert import open_model, write_model
from owl2.checkpoints.new_words import NewWords
from owl2.checkpoints.small_language_model import train_tokenizer

TEXT = "USER: <|image|>Is it a good day? ASSISTANT: It is."
WORDS = ("excellent", "good", "fair")


def small_processor() -> Owl2Processor:
    """A processor whose vocabulary has " good", and the other words in several tokens."""
    tokenizer = train_tokenizer(["a good day"] * 9, 280)
    return Owl2Processor(Owl2ImageProcessor(size={"height": 16, "width": 16}), tokenizer, num_image_tokens=4)


@pytest.fixture(params=[False, True], ids=["head of its own", "tied head"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    processor = small_processor()
    sizes = {"vocab_size": processor.image_token_id, "tie_word_embeddings": request.param}
    tiny_model(tiny_config(**sizes, eos_token_id=2)).save_pretrained(tmp_path / "stored")
    processor.save_pretrained(tmp_path / "stored")
    return tmp_path / "stored"


def extended(stored: Path) -> NewWords:
    return NewWords.of(Owl2Processor.from_pretrained(stored), WORDS)


def test_a_word_of_several_tokens_becomes_one_and_all_other_text_stays(stored: Path, tmp_path: Path) -> None:
    before, words = Owl2Processor.from_pretrained(stored), extended(stored)
    words.processor.save_pretrained(tmp_path / "with")
    after = Owl2Processor.from_pretrained(tmp_path / "with")
    first = before.image_token_id  # of them; the image token moves behind
    text = "It is excellent, fair and good"
    ids = after.encode_prompt(text)["input_ids"]
    assert first in ids and first + 1 in ids and first + 2 not in ids and after.image_token_id == first + 2
    assert after.tokenizer.decode(ids) == text
    same = [processor.encode_prompt(TEXT)["input_ids"] for processor in (before, after)]
    assert same[1] == [first + 2 if token == first else token for token in same[0]]


def test_a_new_token_begins_as_the_mean_of_those_it_replaces(stored: Path, tmp_path: Path) -> None:
    words = extended(stored)
    write_model(words.model(open_model(stored)), tmp_path / "with")
    before, after = (Owl2ForConditionalGeneration.from_pretrained(path).eval() for path in (stored, tmp_path / "with"))
    tokenizer = Owl2Processor.from_pretrained(stored).tokenizer
    for index, word in enumerate(("excellent", "fair")):
        ids = tokenizer(f" {word}")["input_ids"]
        for table in ("get_input_embeddings", "get_output_embeddings"):
            rows = [getattr(model, table)().weight for model in (before, after)]
            torch.testing.assert_close(rows[1][len(rows[0]) + index], rows[0][ids].mean(0))


def test_the_model_says_of_other_tokens_what_it_said(stored: Path, tmp_path: Path) -> None:
    words = extended(stored)
    write_model(words.model(open_model(stored)), tmp_path / "with", finish=words.processor.save_pretrained)
    found = []
    for directory in (stored, tmp_path / "with"):
        model, processor = (
            Owl2ForConditionalGeneration.from_pretrained(directory).eval(),
            Owl2Processor.from_pretrained(directory),
        )
        with torch.no_grad():
            found.append(model(**processor(text=TEXT, images=Image.new("RGB", (9, 9), "red"), return_tensors="pt")))
    assert torch.equal(found[1].logits[..., : found[0].logits.shape[-1]], found[0].logits)
    assert found[1].logits.shape[-1] == found[0].logits.shape[-1] + 2
