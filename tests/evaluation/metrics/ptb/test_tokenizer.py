"""The caption tokenizer against what the official program (Stanford PTBTokenizer 3.4.1) answered.

`ptb_cases.jsonl` holds made captions with the tokens that the program and the official stop list left of each, all
tokenized in one run, each followed by another line.
"""

import json
from pathlib import Path

import pytest

from owl2.evaluation.metrics import ptb_tokenize

CASES = [json.loads(line) for line in Path(__file__).with_name("ptb_cases.jsonl").read_text("utf-8").splitlines()]


def tokens(caption: str) -> str:
    """What becomes of a caption that another follows."""
    return ptb_tokenize([caption, "a dog"])[0]


def test_every_recorded_caption_gets_the_tokens_of_the_official_program() -> None:
    captions = [case["caption"] for case in CASES]
    assert len(captions) > 300
    found = ptb_tokenize([*captions, "a dog"])[:-1]
    wrong = [
        (case["caption"], case["tokens"], got) for case, got in zip(CASES, found, strict=True) if got != case["tokens"]
    ]
    assert not wrong, f"{len(wrong)} of {len(CASES)} differ, as (caption, official, ours): {wrong[:5]}"


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man doesn't like it.", "a man does n't like it"),
        ("It cannot be, they're gonna go", "it can not be they 're gon na go"),
        ("A well-known half-eaten cake", "a well-known half-eaten cake"),
        ("½ of €5", "1/2 of $ 5"),
        ("“Hi” said ‘Bob’ — don’t", "hi said bob do n't"),
        ("a cat 😀 sleeps", "a cat sleeps"),
        ("a dog (brown) [big] {old}", "a dog -lrb- brown -rrb- -lsb- big -rsb- -lcb- old -rcb-"),
    ],
)
def test_the_consequences_named_by_the_specification(caption: str, expected: str) -> None:
    assert tokens(caption) == expected


@pytest.mark.parametrize("mark", "'' ' `` ` . ? ! , : - -- ... ;".split())
def test_stop_list_punctuation_is_dropped(mark: str) -> None:
    assert tokens(f"a {mark} dog") == "a dog"


@pytest.mark.parametrize("mark", ["!!", "?!", "(", "]", "&", "%", "#", "/", "**", "-----"])
def test_other_punctuation_is_kept(mark: str) -> None:
    assert len(tokens(f"a {mark} dog").split(" ")) == 3


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n", "\v", "\f", "\u2028", "\u2029"])
def test_a_line_break_inside_a_caption_never_shifts_the_next_one(line_break: str) -> None:
    assert ptb_tokenize([f"a red{line_break}bus", "a cat"]) == ["a red bus", "a cat"]


@pytest.mark.parametrize("line_break", ["\n", "\r", "\v", "\f", "\u2028", "\u2029"])
def test_a_line_break_counts_as_a_space(line_break: str) -> None:
    assert tokens(f"bus no.{line_break}5") == tokens("bus no. 5") == "bus no. 5"


def test_white_space_at_the_end_goes_even_where_it_is_part_of_a_token() -> None:
    assert tokens("see http://a.bc/d\u00a0") == "see http://a.bc/d"


def test_each_caption_gives_one_text_also_when_nothing_is_left_of_it() -> None:
    assert ptb_tokenize([]) == []
    assert ptb_tokenize(["", "...", " ", "😀", "a cat"]) == ["", "", "", "", "a cat"]


def test_the_very_end_of_the_text_is_cut_as_the_official_program_does() -> None:
    assert ptb_tokenize(["so they'll", "so they'll"]) == ["so they 'll", "so they ll"]
    assert ptb_tokenize(["so :)", "so :)"]) == ["so :-rrb-", "so -rrb-"]


def test_what_is_not_a_list_of_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="list of texts, got the text 'a dog'"):
        ptb_tokenize("a dog")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="caption 1 must be a text, got None"):
        ptb_tokenize(["a dog", None])  # type: ignore[list-item]
