"""Scores of VQAv2, OK-VQA, TextVQA and VizWiz: cases worked out by hand from the rules of the four programs."""

import random

import pytest

from owl2.evaluation.metrics import evalai_answer, normalize_vqa_answer, unanswerable_scores, vqa_accuracy

PROTOCOLS = ("vqa_official", "vqa_owl2", "vqa_m4c", "vizwiz_official")


def humans(**counts: int) -> list[str]:
    """Ten answers: each keyword so many times."""
    answers = [answer for answer, count in counts.items() for _ in range(count)]
    assert len(answers) == 10
    return answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red/blue", "red blue"),  # a mark between letters becomes a space
        ("red/blue/ green", "redblue green"),  # where one touches a space, before or after, it is deleted
        ("red/blue /green", "redblue green"),
        ("red-blue (x)", "red blue x"),  # and all of its kind with it, but none of another kind
        ("yes!no?", "yes no"),
        ("1,000 t-shirts", "1000 tshirts"),  # digit, comma, digit: every mark is deleted
        ("1,000;red/blue", "1000redblue"),
        ("red,white", "red white"),
        ("10, 20", "10 20"),
        ('say "hi" [to] {me}', "say hi to me"),
        ("x=y+z\\w_v>u<t@s`r", "x y z w v u t s r"),
        ("it's 5:30", "it's 5:30"),  # apostrophe and colon stay
        ("$5 & 50% #1 *", "$5 & 50% #1 *"),
    ],
)
def test_punctuation_is_deleted_or_becomes_a_space_as_in_the_official_program(text: str, expected: str) -> None:
    assert normalize_vqa_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5.", "5"),  # a digit before it does not protect a period
        ("3.5", "3.5"),
        (".5", ".5"),
        ("u.s.a.", "usa"),
        ("st.", "st"),
        ("...5", ".5"),
        ("x" + "." * 40, "x" + "." * 8),  # only the first 32 go
        (".5" + "." * 33, ".5."),  # the protected one is not counted
    ],
)
def test_periods_before_anything_but_a_digit_are_removed_up_to_32_of_them(text: str, expected: str) -> None:
    assert normalize_vqa_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two  Dogs\tand\nTHREE cats", "2 dogs and 3 cats"),
        ("zero one two three four five six seven eight nine ten", "0 1 2 3 4 5 6 7 8 9 10"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("no one", "no 1"),
        ("twenty-one", "twenty 1"),
        ("A man in the car with an umbrella", "man in car with umbrella"),
        ("another theatre", "another theatre"),
        ("the", ""),
        ("", ""),
    ],
)
def test_number_words_become_digits_and_articles_disappear(text: str, expected: str) -> None:
    assert normalize_vqa_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dont", "don't"),
        ("hes", "he's"),
        ("oclock", "o'clock"),
        ("twas", "'twas"),
        ("yall", "y'all"),
        ("thats", "that's"),
        ("couldntve", "couldntve"),  # one apostrophe may be missing, not two
        ("couldnt've", "couldn't've"),
        ("wouldn'tve", "wouldn't've"),
        ("shed've", "she'd've"),
        ("somebody'dve", "somebody'd've"),
        ("yall'll", "y'all'll"),
        ("y'allll", "y'all'll"),
        ("yall'd've", "y'all'd've"),
        ("y'alld've", "y'all'd've"),
        ("y'all'dve", "y'all'd've"),
        ("ow's'at", "'ow's'at"),
        ("'ows'at", "'ow's'at"),
        ("'ow'sat", "'ow's'at"),
        ("somebody'd", "somebodyd"),  # the one that loses its apostrophe
        ("let's she's", "let's she's"),
        ("Im Ive", "im ive"),  # their keys have a capital I, the text has none by then
        ("its lets shes id ill well", "its lets shes id ill well"),  # not in the table
    ],
)
def test_contractions_get_their_apostrophe_from_the_official_table(text: str, expected: str) -> None:
    assert normalize_vqa_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,000 t-shirts", "1000 t shirts"),  # commas are gone before the rule of digit, comma, digit is tried
        ("red,white", "redwhite"),
        ("What?now", "whatnow"),
        ("man's hat", "man 's hat"),
        ("he's", "he 's"),
        ("hes", "he's"),
        ("  The\tTwo\nDogs. ", "2 dogs"),
        ("x-y\n-z", "xy z"),  # line breaks are spaces before marks are looked at
        ("", ""),
    ],
)
def test_evalai_answers_lose_commas_first_and_get_a_space_before_an_s(text: str, expected: str) -> None:
    assert evalai_answer(text) == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("matching", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)])
def test_k_agreeing_humans_of_ten_give_the_published_accuracies(protocol: str, matching: int, expected: float) -> None:
    answers = humans(dog=matching, cat=10 - matching)
    assert vqa_accuracy("dog", answers, protocol) == pytest.approx(expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_records_score_as_their_texts_whether_or_not_they_have_ids(protocol: str) -> None:
    texts = humans(dog=3, cat=7)
    with_ids = [{"answer": text, "answer_id": index} for index, text in enumerate(texts, 1)]
    without_ids = [{"answer": text, "answer_confidence": "yes"} for text in texts]
    for answers in (texts, with_ids, without_ids):
        assert vqa_accuracy("dog", answers, protocol) == pytest.approx(0.9)
    assert vqa_accuracy("dog", [{"answer": "dog"}] * 10, protocol) == 1
    assert with_ids[0] == {"answer": "dog", "answer_id": 1}  # left as given


def test_official_compares_unanimous_answers_verbatim() -> None:
    assert vqa_accuracy("Dog", humans(dog=10)) == 0
    assert vqa_accuracy("dog.", humans(dog=10)) == 0
    assert vqa_accuracy("two", ["two"] * 10) == 1
    assert vqa_accuracy("2", ["two"] * 10) == 0
    assert vqa_accuracy(" \tdog\n", ["dog"] * 9 + [" dog\n"]) == 1
    assert vqa_accuracy("Dog", ["dog"] * 9 + [" dog\n"]) == 0  # unanimous but for white space


def test_official_normalises_both_sides_where_humans_disagree() -> None:
    assert vqa_accuracy("Dog.", humans(dog=9, cat=1)) == 1
    assert vqa_accuracy("The dog", humans(dog=3, cat=7)) == pytest.approx(0.9)
    assert vqa_accuracy("2", ["two"] * 3 + ["three"] * 7) == pytest.approx(0.9)
    assert vqa_accuracy("tshirt", ["t - shirt"] * 2 + ["T-shirt."] * 8) == 0
    assert vqa_accuracy("t-shirt", ["t - shirt"] * 2 + ["T-shirt."] * 8) == 1


def test_owl2_gives_answers_the_punctuation_step_alone() -> None:
    def score(prediction: str, answers: list[str]) -> float:
        return vqa_accuracy(prediction, answers, "vqa_owl2")

    assert score("two", ["two"] * 9 + ["three"]) == 0  # the prediction is 2 by then
    assert score("Yes", ["Yes"] * 9 + ["no"]) == 0
    assert score("the cat", ["the cat"] * 9 + ["dog"]) == 0
    assert score("T-Shirt", ["t-shirt"] * 9 + ["shirt."]) == 1
    assert score("shirt", ["t-shirt"] * 9 + ["shirt."]) == pytest.approx(0.3)
    assert score("cat", ["cat "] * 9 + ["dog"]) == 0  # answers are not stripped


def test_owl2_normalises_the_prediction_even_where_answers_are_unanimous_and_verbatim() -> None:
    assert vqa_accuracy("Dog.", ["dog"] * 10, "vqa_owl2") == 1
    assert vqa_accuracy("Dog", ["Dog"] * 10, "vqa_owl2") == 0
    assert vqa_accuracy("t-shirt", ["t-shirt"] * 10, "vqa_owl2") == 0


def test_m4c_normalises_both_sides_always() -> None:
    assert vqa_accuracy("1000 t-shirts", ["1,000 T-Shirts"] * 10, "vqa_m4c") == 1
    assert vqa_accuracy("Two", ["2"] * 10, "vqa_m4c") == 1
    assert vqa_accuracy("hes", ["he's"] * 10, "vqa_m4c") == 0  # "he's" against "he 's"
    assert vqa_accuracy("", ["the"] * 2 + ["dog"] * 8, "vqa_m4c") == pytest.approx(0.6)


def test_vizwiz_takes_answers_verbatim_and_normalises_the_prediction() -> None:
    def score(prediction: str, answers: list[str]) -> float:
        return vqa_accuracy(prediction, answers, "vizwiz_official")

    assert score("Unanswerable.", ["unanswerable"] * 10) == 1
    assert score("Dog", ["Dog"] * 3 + ["dog"] * 7) == 1
    assert score("dog", ["Dog"] * 7 + ["dog"] * 3) == pytest.approx(0.9)
    assert score("t-shirt", ["t-shirt"] * 10) == 0
    assert score("a\n-b c-d", ["b cd"] * 10) == 1  # a line break is a space before marks are looked at


def test_vizwiz_puts_backticks_into_most_contractions() -> None:
    def score(prediction: str, answer: str) -> float:
        return vqa_accuracy(prediction, [answer] * 10, "vizwiz_official")

    assert score("dont know", "don't know") == 0
    assert score("dont know", "don`t know") == 1
    assert score("don't know", "don't know") == 1  # not a contraction of the table: left alone
    assert score("cant tell", "can't tell") == 1  # eight are intact
    assert score("wheres", "where's") == 1
    assert score("couldnt've", "couldnt've") == 1  # its key has a backtick and never matches
    assert score("couldn'tve", "couldn`t`ve") == 1
    assert score("somebody'd", "somebody'd") == 1


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'vqa'.*vqa_official, vqa_owl2, vqa_m4c, vizwiz_official"):
        vqa_accuracy("dog", ["dog"] * 10, "vqa")


def test_answers_that_cannot_be_scored_are_refused() -> None:
    with pytest.raises(ValueError, match="exactly ten.*got 9"):
        vqa_accuracy("dog", ["dog"] * 9, "vqa_m4c")
    with pytest.raises(ValueError, match="at least one"):
        vqa_accuracy("dog", [])
    with pytest.raises(ValueError, match="list.*'dog'"):
        vqa_accuracy("dog", "dog")
    with pytest.raises(ValueError, match="prediction must be a string, got None"):
        vqa_accuracy(None, ["dog"] * 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="answer 1 must be.*raw_answer"):
        vqa_accuracy("dog", [{"answer": "dog"}, {"raw_answer": "dog"}])


@pytest.mark.parametrize("seed", range(6))
def test_unanswerable_scores_are_those_of_scikit_learn(seed: int) -> None:
    """VizWiz' program gives scikit-learn one minus the predicted and the true answerability."""
    sklearn = pytest.importorskip("sklearn.metrics")
    draw = random.Random(seed)
    predicted = [draw.random() < 0.2 * seed for _ in range(40)]
    unanswerable = [True, *(draw.random() < 0.3 for _ in range(39))]
    texts = ["\tUnanswerable." if value else draw.choice(["unsuitable", "", "not unanswerable"]) for value in predicted]
    assert unanswerable_scores(texts, unanswerable) == {
        "average_precision": pytest.approx(sklearn.average_precision_score(unanswerable, predicted)),
        "f1": pytest.approx(sklearn.f1_score(unanswerable, predicted)),
    }


def test_unanswerable_scores_of_nothing_to_find_are_0_and_of_nothing_at_all_refused() -> None:
    assert unanswerable_scores(["unanswerable", "x"], [False, False]) == {"average_precision": 0.0, "f1": 0.0}
    with pytest.raises(ValueError, match="0 predictions for 0"):
        unanswerable_scores([], [])
    with pytest.raises(ValueError, match="1 predictions for 2"):
        unanswerable_scores(["x"], [True, False])
