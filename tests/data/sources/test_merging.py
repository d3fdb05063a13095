"""Questions merged by image."""

import random

from owl2.data.sources.merging import Asked, merge_questions


def test_merged_conversations_hold_every_question_once_under_its_image() -> None:
    asked = [Asked(f"n{index % 3}", f"{index % 3}.jpg", f"q{index}", f"a{index}") for index in range(20)]
    found = list(merge_questions(asked, random.Random(0), max_questions=4))
    assert [len(record.messages) // 2 for record in found] == [4, 3, 4, 3, 4, 2]  # 7, 7 and 6 questions
    assert len({record.id for record in found}) == 6
    texts = [
        (record.images[0], question["content"][-1]["text"], answer["content"][0]["text"])
        for record in found
        for question, answer in zip(record.messages[::2], record.messages[1::2], strict=True)
    ]
    assert sorted(texts) == sorted((item.image, item.question, item.answer) for item in asked)
