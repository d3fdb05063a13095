"""Text as it is written, token by token."""

import random

import pytest

from owl2.serving.engine.detokenizer import Detokenizer, token_text


def pieces(tokenizer, tokens, stop=()):
    detokenizer = Detokenizer(tokenizer, stop)
    found = []
    for index, token in enumerate(tokens):
        found.append(detokenizer.add([token], is_last=index == len(tokens) - 1))
        if detokenizer.stopped:
            break
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_pieces_of_random_tokens_make_what_decoding_all_of_them_makes(processor, seed):
    draw = random.Random(seed)
    size = processor.tokenizer.vocab_size
    # Words, single bytes (ids 3 to 258) and special tokens, each often next to its like.
    ranges = [(0, 3), (3, 259), (259, size)]
    tokens = [draw.randrange(*draw.choice(ranges)) for _ in range(60)]
    assert "".join(pieces(processor.tokenizer, tokens)) == processor.tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("text", ["Äpfel, naïve 漢字かな and 👩‍🚀 go\n\n  home.", "a  b", "x\ty\n"])
def test_text_of_many_scripts_comes_in_whole_characters(processor, text):
    tokens = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    found = pieces(processor.tokenizer, tokens)
    assert "".join(found) == processor.tokenizer.decode(tokens)
    assert not any("\ufffd" in piece for piece in found)


@pytest.mark.parametrize("stop", ["lo wo", "w", "hello", "d."])
def test_a_stop_text_that_spans_tokens_ends_the_answer_and_is_not_part_of_it(processor, stop):
    text = "well hello world. And more"
    tokens = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(pieces(processor.tokenizer, tokens, (stop, "never"))) == text[: text.index(stop)]


def test_text_that_only_begins_like_a_stop_text_is_not_lost(processor):
    tokens = processor.tokenizer("hello world", add_special_tokens=False)["input_ids"]
    assert "".join(pieces(processor.tokenizer, tokens, ("world peace", "hell no"))) == "hello world"


def test_a_single_token_keeps_the_space_before_its_word(processor):
    tokens = processor.tokenizer("hello world", add_special_tokens=False)["input_ids"]
    assert "".join(token_text(processor.tokenizer, token) for token in tokens) == " hello world"
