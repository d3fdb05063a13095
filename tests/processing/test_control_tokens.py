"""Control tokens written in texts: found, refused, or read as the letters they are; and turns that are not learnt."""

from typing import Any

import pytest

from owl2.processing import Owl2Processor
from owl2.processing.control_tokens import control_tokens_in, holds_stand_ins, protect, written_out

PLAIN = [
    {"role": "user", "content": "what is it?  two spaces "},
    {"role": "assistant", "content": " a cat é"},
    {"role": "user", "content": "sure?"},
    {"role": "assistant", "content": "yes."},
]


def marked(token: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": f"which tag? {token}old{token}"},
        {"role": "assistant", "content": [{"type": "text", "text": f"use {token} it {token}"}]},
    ]


@pytest.fixture(params=["processor", "chatml_processor", "llama3_processor"])
def any_processor(request: pytest.FixtureRequest) -> Owl2Processor:
    return request.getfixturevalue(request.param)


def test_texts_without_control_tokens_are_encoded_alike_with_and_without_protection(
    any_processor: Owl2Processor,
) -> None:
    sample = any_processor.encode_conversation(PLAIN)
    assert any_processor.encode_conversation(PLAIN, control_tokens="text") == sample
    assert any_processor.encode_conversation(PLAIN, control_tokens="refuse") == sample


def test_as_text_a_conversation_holds_the_control_tokens_of_its_template_alone(any_processor: Owl2Processor) -> None:
    tokenizer = any_processor.tokenizer
    for token in any_processor.control_tokens:
        special = tokenizer.convert_tokens_to_ids(token)
        template = any_processor.encode_conversation([{**turn, "content": "a"} for turn in marked(token)])
        as_tokens = any_processor.encode_conversation(marked(token))
        as_text = any_processor.encode_conversation(marked(token), control_tokens="text")
        expected = template["input_ids"].count(special)
        assert as_tokens["input_ids"].count(special) == expected + 4
        assert as_text["input_ids"].count(special) == expected
        learnt = [label for label in as_text["labels"] if label != -100]
        assert f"use {token} it {token}" in tokenizer.decode(learnt)
        assert learnt[-1] == template["input_ids"][template["labels"].index(learnt[-1])]  # the end of the turn


def test_every_token_beside_the_letters_is_the_one_that_it_is_without_them(processor: Owl2Processor) -> None:
    """The letters are tokenized with what stands beside them, as any word is."""
    letters = processor.tokenizer("use </s> it", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    (answer,) = protect([{"role": "assistant", "content": "use </s> it"}], processor.control_tokens)
    assert processor.encode_prompt(answer["content"], add_special_tokens=False)["input_ids"] == letters


def test_refusing_names_the_turn_and_the_token(processor: Owl2Processor) -> None:
    with pytest.raises(ValueError, match=r"turn 1 holds the control token '</s>'"):
        processor.encode_conversation(marked("</s>"), control_tokens="refuse")
    with pytest.raises(ValueError, match="control token"):
        processor.encode_pair("a cat</s>", control_tokens="refuse")


def test_a_caption_as_text_ends_with_the_only_end_token(processor: Owl2Processor) -> None:
    end = processor.tokenizer.eos_token_id
    sample = processor.encode_pair("a cat</s> sat", control_tokens="text")
    assert sample["input_ids"].count(end) == 1 and sample["input_ids"][-1] == end
    assert processor.encode_pair("a cat</s> sat")["input_ids"].count(end) == 2


def test_each_is_found_once_a_turn_and_protected_texts_can_be_written_out_again() -> None:
    messages, tokens = marked("<s>"), ["<s>", "</s>"]
    assert control_tokens_in(messages, tokens) == [(1, "<s>"), (2, "<s>")]
    protected = protect(messages, tokens)
    assert not control_tokens_in(protected, tokens) and holds_stand_ins(protected[0]["content"])
    assert written_out(protected[0]["content"], tokens) == messages[0]["content"]
    assert messages == marked("<s>")  # not changed


def test_a_turn_of_the_weight_0_is_read_and_not_learnt(any_processor: Owl2Processor) -> None:
    weighed = [PLAIN[0], {**PLAIN[1], "weight": 0}, PLAIN[2], {**PLAIN[3], "weight": 1}]
    whole, sample = any_processor.encode_conversation(PLAIN), any_processor.encode_conversation(weighed)
    assert sample["input_ids"] == whole["input_ids"]
    decode = any_processor.tokenizer.decode
    assert decode([label for label in sample["labels"] if label != -100]).strip().startswith("yes.")
    assert "cat" in decode([label for label in whole["labels"] if label != -100])


@pytest.mark.parametrize("turn", [{**PLAIN[1], "weight": 0.5}, {**PLAIN[0], "weight": 1}])
def test_other_weights_are_refused(processor: Owl2Processor, turn: dict[str, Any]) -> None:
    messages = [turn if turn["role"] == each["role"] else each for each in PLAIN[:2]]
    with pytest.raises(ValueError, match="has the weight"):
        processor.encode_conversation(messages)
