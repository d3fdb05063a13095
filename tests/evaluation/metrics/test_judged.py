"""Replies of judges: the scores in well-formed ones, and the refusal of the others."""

from pathlib import Path

import pytest

from owl2.evaluation.metrics.judged import mmhal_score, mmvet_score, video_judge_reply


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("0.5", 0.5),
        ("1.0", 1.0),
        ("0", 0.0),
        ("0.5 because", 0.5),
        ("0.7\n", 0.7),
        ("\n0.7 |", 0.7),
        ("1e-1", 0.1),
        (" 0.5", None),  # nothing before the first space
        ("", None),
        ("0.5\nbecause", None),  # only a space ends the number
        ("0.5,", None),
        ("Correctness: 0.5", None),
        ("1.1", None),
        ("-0.1", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_mmvet_reads_a_number_from_0_to_1_before_the_first_space(reply: str, score: float | None) -> None:
    assert mmvet_score(reply) == score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        *((f"It is right.\nRating: {rating}, whatever", rating) for rating in range(7)),
        ("RATING: 4", 4),
        ("- rating: 3. Again: Rating: 3", 3),
        ("Rating: 10", 1),
        ("rating: 55", 5),
    ],
)
def test_mmhal_reads_the_digit_after_the_word_rating(reply: str, score: int) -> None:
    assert mmhal_score(reply) == score


@pytest.mark.parametrize(
    "reply", ["Rating:4", "**Rating:** 4", "Rating: **4**", "Rating: 7", "Rating: 2 ... Rating: 5", "Four", ""]
)
def test_mmhal_scores_a_reply_without_one_rating_0_and_says_so(reply: str) -> None:
    with pytest.warns(UserWarning, match="not one: scored 0"):
        assert mmhal_score(reply) == 0


@pytest.mark.parametrize(
    ("reply", "verdict", "score"),
    [
        ("{'pred': 'yes', 'score': 4}", "yes", 4),
        ('{"score": 0, "pred": "no", "why": None}\n', "no", 0),
        ("{'pred': 'Yes.', 'score': 4.8}", "yes", 4),  # cut, not rounded
        ("{'pred': 'yes', 'score': '4'}", "yes", 4),
        ("{'pred': 'yes', 'score': -0.5}", "yes", 0),
        ("{'pred': 'no, not yes', 'score': 2}", "yes", 2),
        ("{'pred': 'unknown', 'score': 1}", "no", 1),
        ("{'pred': 'NOT sure', 'score': 1}", "no", 1),
        ("{'pred': 'Maybe', 'score': 3}", "Maybe", 3),
        ("{'pred': '', 'score': 3}", "", 3),
        ("  {'pred': 'yes', 'score': 9}", "yes", 9),
    ],
)
def test_video_replies_give_verdict_and_integer_score(reply: str, verdict: str, score: int) -> None:
    assert video_judge_reply(reply) == (verdict, score)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "yes",
        "```python\n{'pred': 'yes', 'score': 4}\n```",
        "Sure: {'pred': 'yes', 'score': 4}",
        "{'pred': 'yes', 'score': 4}.",
        "{'pred': 'yes', 'score': '4.8'}",
        "{'pred': 'yes', 'score': 'high'}",
        "{'pred': 'yes', 'score': None}",
        "{'pred': 'yes', 'score': 1e999}",
        "{'pred': True, 'score': 4}",
        '{"pred": true, "score": 4}',
        "{'pred': 'yes'}",
        "{'score': 4}",
        "{'pred', 'score'}",
        "[{'pred': 'yes', 'score': 4}]",
        "{'pred': 'yes', 'score': 4",
        "{[]: 4}",
        "\x00",
        "(" * 5000,
        "-" * 100_000 + "1",
    ],
)
def test_video_replies_that_are_no_such_dictionary_have_no_verdict(reply: str) -> None:
    assert video_judge_reply(reply) is None


def test_video_replies_are_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for reply in (f"open({str(canary)!r}, 'w')", f"{{'pred': str(open({str(canary)!r}, 'w')), 'score': 1}}"):
        assert video_judge_reply(reply) is None
    assert not canary.exists()
