"""LLaVA-Instruct-150K, ShareGPT and SlimOrca."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owl2.data.sources import llava_instruct, sharegpt, slim_orca

Write = Callable[[str, Any], Path]
Spoken = Callable[[Any], list[tuple[str, str]]]


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": speaker, "value": text} for speaker, text in turns]


def llava(*turns: tuple[str, str], **changes: Any) -> dict[str, Any]:
    return {"id": "000000033471", "image": "000000033471.jpg", "conversations": said(*turns), **changes}


@pytest.mark.parametrize("question", ["<image>\nWhat colour?", "What colour?\n<image>"])
def test_the_image_of_llava_instruct_goes_before_the_first_question(
    write: Write, spoken: Spoken, question: str
) -> None:
    row = llava(("human", question), ("gpt", "White."), ("human", "Why?\n"), ("gpt", "Paint."))
    (record,) = llava_instruct.conversations(write("llava_instruct_150k.json", [row]), "coco")
    assert record.images == ("coco/train2017/000000033471.jpg",)
    expected = [("user", "What colour?"), ("assistant", "White."), ("user", "Why?"), ("assistant", "Paint.")]
    assert spoken(record) == expected


def test_conversations_about_one_image_have_ids_of_their_own(write: Write) -> None:
    rows = [llava(("human", "<image>\nq"), ("gpt", "a")), llava(("human", "<image>\nr"), ("gpt", "b"))]
    found = list(llava_instruct.conversations(write("llava_instruct_150k.json", rows), "coco"))
    assert len({record.id for record in found}) == 2


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (llava(("human", "q"), ("gpt", "a")), r"the numbers of <image> in its turns are \[0, 0\]"),
        (llava(("human", "<image><image>"), ("gpt", "a")), r"the numbers of <image> in its turns are \[2, 0\]"),
        (llava(("human", "<image>q"), ("gpt", "<image>")), r"the numbers of <image> in its turns are \[1, 1\]"),
        (llava(), r"the numbers of <image> in its turns are \[\]"),
        (llava(("gpt", "<image>a"), ("human", "q")), "roles out of order"),
        (llava(("human", "<image>q")), "no answer to the last turn"),
        (llava(("human", "<image>"), ("gpt", "a")), "an empty turn"),
        (llava(("robot", "<image>q"), ("gpt", "a")), "the speaker is 'robot'"),
        (llava(("human", "<image>q"), ("gpt", "a"), image="/etc/passwd"), "not a file under the image root"),
        (llava(("human", "<image>q"), ("gpt", "a"), image="../a.jpg"), "not a file under the image root"),
    ],
)
def test_a_broken_llava_record_is_named(write: Write, row: dict[str, Any], problem: str) -> None:
    rows = [llava(("human", "<image>\nq"), ("gpt", "a")), row]
    file = write("llava_instruct_150k.json", rows)
    with pytest.raises(ValueError, match=rf"llava_instruct_150k\.json, record 2[,:].*{problem}"):
        list(llava_instruct.conversations(file, "coco"))


def test_shared_conversations_are_cut_to_begin_with_a_question_and_end_with_an_answer(
    write: Write, spoken: Spoken
) -> None:
    rows = [
        {"id": "a_0", "conversations": said(("human", "Hi "), ("gpt", "Hello"), ("human", "Bye"))},
        {"id": "b_7", "conversations": said(("gpt", "rest"), ("user", "Hi"), ("chatgpt", "Hello"))},
        {"id": "c", "conversations": said(("system", "Be kind"), ("human", "Hi"), ("gpt", "Hello"))},
        {"id": "d", "conversations": said(("system", " "), ("human", "Hi"), ("gpt", "Hello"))},
    ]
    found = list(sharegpt.conversations(write("sharegpt.json", rows)))
    exchange = [("user", "Hi"), ("assistant", "Hello")]
    assert [spoken(record) for record in found] == [exchange, exchange, [("system", "Be kind"), *exchange], exchange]
    assert [record.id for record in found] == ["sharegpt-a_0", "sharegpt-b_7", "sharegpt-c", "sharegpt-d"]
    assert all(record.images == () for record in found)


def test_unusable_shared_conversations_are_left_out_and_counted(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"id": "a", "conversations": []},
        {"id": "b", "conversations": said(("human", "q"))},
        {"id": "c", "conversations": said(("human", "q"), ("human", "q"), ("gpt", "a"))},
        {"id": "d", "conversations": said(("human", "q"), ("gpt", " "))},
        {"id": "e", "conversations": said(("human", "q"), ("gpt", "a"))},
    ]
    with caplog.at_level(logging.WARNING):
        found = list(sharegpt.conversations(write("sharegpt.json", rows)))
    assert [record.id for record in found] == ["sharegpt-e"]
    assert "left out 4 conversations: {'no turns': 2, 'roles out of order': 1, 'an empty turn': 1}" in caplog.text


def test_a_shared_conversation_of_another_form_is_named(write: Write) -> None:
    with pytest.raises(ValueError, match=r"sharegpt\.json, record 1: has no 'conversations'; it has \['id', 'items'\]"):
        list(sharegpt.conversations(write("sharegpt.json", [{"id": "a", "items": []}])))


def orca(system: str, question: str, answer: str) -> dict[str, Any]:
    turns = said(("system", system), ("human", question), ("gpt", answer))
    return {"conversations": [{**turn, "weight": weight} for turn, weight in zip(turns, (None, 0, 1), strict=True)]}


def test_slim_orca_keeps_the_system_prompt_unless_it_is_empty(write: Write, spoken: Spoken) -> None:
    lines = [orca("You are an AI assistant.", "2+2?", "4"), orca("", "3+3?", "6")]
    first, second = slim_orca.conversations(write("oo-labeled_correct.gpt4.sharegpt.jsonl", lines))
    assert spoken(first) == [("system", "You are an AI assistant."), ("user", "2+2?"), ("assistant", "4")]
    assert spoken(second) == [("user", "3+3?"), ("assistant", "6")]
    assert (first.id, second.id, first.images) == ("slim_orca-1", "slim_orca-2", ())


def test_a_broken_line_of_slim_orca_is_named(write: Write) -> None:
    file = write("orca.jsonl", [orca("", "q", "a"), orca("", "q", "")])
    with pytest.raises(ValueError, match=r"orca\.jsonl, record 2: an empty turn"):
        list(slim_orca.conversations(file))
