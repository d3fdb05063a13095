"""Judges, against a server that the tests start: what is sent, kept, retried, counted and replayed."""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, completion

from owl2.evaluation.judge.benchmark_items import mmbench_item, mmhal_item, mmvet_item, read_prompt, video_item
from owl2.evaluation.judge.judge import Judge, JudgeCacheMiss, JudgeItem, mean_and_deviation
from owl2.evaluation.judge.request import Ask

KEY = "a secret key"
OFF = 0.1  # seconds of patience with a server that is slow for ever


@pytest.fixture
def waited() -> list[float]:
    return []


@pytest.fixture
def make(server: JudgeServer, tmp_path: Path, waited: list[float]) -> Callable[..., Judge]:
    def build(**changes: Any) -> Judge:
        settings = {"base_url": server.url, "api_key": KEY, "timeout": 10.0, "max_retries": 2, "wait": waited.append}
        return Judge("judge-1", tmp_path / "cache", **{**settings, **changes})

    return build


def number_or_none(reply: str) -> float | None:
    try:
        return float(reply)
    except ValueError:
        return None


def item(name: str, asks: int = 1) -> JudgeItem[float]:
    return JudgeItem(name, (Ask(({"role": "user", "content": name},)),) * asks, number_or_none, fallback=0.0)


def contents(server: JudgeServer) -> list[str]:
    return [request["messages"][-1]["content"] for request in server.requests]


def test_the_endpoint_gets_a_chat_completions_request_with_the_key_as_bearer(server, make):
    ask = Ask(({"role": "system", "content": "s"}, {"role": "user", "content": "u"}), temperature=0.5, max_tokens=3)
    run = make(base_url=server.url + "/").run([JudgeItem("1", (ask,), number_or_none, 0.0)], run=4)
    assert server.requests == [
        {
            "model": "judge-1",
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
            "temperature": 0.5,
            "max_tokens": 3,
        }
    ]
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert run.values() == {"1": 0.5} and run.served_by == {"the-model-2024": 1}
    assert (run.failures, run.failed_attempts) == ({}, {})


def test_settings_that_an_ask_leaves_open_are_not_sent(server, make):
    ask = Ask(({"role": "user", "content": "u"},), temperature=None)
    make().run([JudgeItem("1", (ask,), number_or_none, 0.0)])
    assert set(server.requests[0]) == {"model", "messages"}


def test_key_and_address_come_from_the_environment(server, make, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment\n")  # as a file of one line gives it
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    make(base_url=None, api_key=None).run([item("1")])
    assert server.headers[0]["Authorization"] == "Bearer from the environment"


def test_a_judge_without_a_key_says_which_variable_to_set(server, make, monkeypatch):
    with pytest.raises(ValueError, match="set the variable OPENAI_API_KEY"):
        make(api_key=None)
    monkeypatch.setenv("OPENAI_API_KEY", "")
    with pytest.raises(ValueError, match="set the variable OPENAI_API_KEY"):
        make(api_key=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "file:///etc"}, "must begin with http"),
        ({"timeout": 0}, "timeout of 0 seconds"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"concurrency": 0}, "concurrency=0"),
    ],
)
def test_settings_out_of_range_are_refused_with_their_value(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_items_with_one_id_or_nothing_to_ask_are_refused_before_any_request(server, make):
    with pytest.raises(ValueError, match="1 ids .* such as 'b'"):
        make().run([item("a"), item("b"), item("b")])
    with pytest.raises(ValueError, match="nothing to ask the judge, such as 'c'"):
        make().run([item("c", asks=0)])
    assert server.requests == []


def test_verdicts_keep_the_order_of_the_items_and_requests_the_bound_on_their_number(server, make):
    def answer(number: int, body: dict) -> bytes:
        name = body["messages"][0]["content"]
        time.sleep(0.02 if name in ("0", "1") else 0.002)  # the first are the last to come back
        return completion(name)

    server.answer = answer
    run = make(concurrency=3).run([item(str(i)) for i in range(20)])
    assert [(verdict.id, verdict.value) for verdict in run.verdicts] == [(str(i), float(i)) for i in range(20)]
    assert 2 <= server.most_at_once <= 3


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        ((429, {}), "http_429"),
        ((500, {}), "http_500"),
        ((503, {}), "http_503"),
        ((408, {}), "http_408"),
        (b"<html>busy</html>", "malformed"),
        (b"", "malformed"),
        (b"[]", "malformed"),
        (b'{"choices": []}', "malformed"),
        (b'{"choices": [{"message": "0.5"}]}', "malformed"),
        (completion(None), "malformed"),
        ("hang up", "connection"),
    ],
)
def test_passing_trouble_is_retried_and_counted(server, make, waited, trouble, kind):
    server.answer = lambda number, body: trouble if number < 2 else completion("0.7")
    run = make().run([item("1")])
    assert run.values() == {"1": 0.7}
    assert run.failures == {} and run.failed_attempts == {kind: 2}
    assert len(server.requests) == 3 and len(waited) == 2


@pytest.mark.parametrize("trouble", ["silence", (200, {"Content-Length": "1000000", "drips": True})])
def test_a_slow_answer_is_given_up_at_the_timeout_even_if_it_drips(server, make, waited, trouble):
    status = trouble if isinstance(trouble, str) else (trouble[0], dict(trouble[1]))
    server.answer = lambda number, body: status if number == 0 else completion("0.7")
    started = time.monotonic()
    run = make(timeout=OFF, max_retries=20).run([item("1")])
    assert run.values() == {"1": 0.7} and set(run.failed_attempts) == {"timeout"}
    assert time.monotonic() - started < 50 * OFF


def test_retries_are_capped_and_what_still_fails_is_counted_and_refuses_a_score(server, make, waited):
    server.answer = lambda n, body: (500, {}) if body["messages"][0]["content"] == "bad" else completion("1")
    run = make(max_retries=3).run([item("good"), item("bad"), item("fine")])
    assert contents(server).count("bad") == 4 and len(waited) == 3
    assert run.failures == {"http_500": 1} and run.failed_attempts == {"http_500": 4}
    assert [verdict.value for verdict in run.verdicts] == [1.0, None, 1.0]
    assert "no such luck" in run.verdicts[1].detail
    with pytest.raises(ValueError, match=r"1 of 3 items \{'http_500': 1\}, such as 'bad'"):
        run.values()
    assert run.values(allow_partial=True) == {"good": 1.0, "fine": 1.0}


def test_waits_double_with_jitter_up_to_a_minute(server, make, waited):
    server.answer = lambda number, body: (500, {})
    make(max_retries=9).run([item("1")])
    assert len(waited) == 9
    for retry, seconds in enumerate(waited):
        full = min(60, 2**retry)
        assert full / 2 <= seconds <= full
    assert len({seconds / min(60, 2**retry) for retry, seconds in enumerate(waited)}) > 1


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [("7", 7, 7), ("3600", 60, 60), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.5, 1), ("-5", 0.5, 1)],
)
def test_the_wait_that_the_endpoint_asks_for_is_kept_up_to_a_minute(server, make, waited, asked, least, most):
    server.answer = lambda number, body: (429, {"Retry-After": asked}) if number == 0 else completion("1")
    make().run([item("1")])
    assert least <= waited[0] <= most


def test_a_request_that_the_endpoint_rejects_is_not_repeated(server, make, waited):
    server.answer = lambda number, body: (400, {})
    run = make().run([item("1")])
    assert run.failures == {"http_400": 1} and len(server.requests) == 1 and waited == []


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "check OPENAI_API_KEY"), (403, "check OPENAI_API_KEY"), (404, "'judge-1'.*check OPENAI_BASE_URL")],
)
def test_a_wrong_key_address_or_model_stops_the_run_at_once(server, make, status, message):
    server.answer = lambda number, body: (status, {})
    with pytest.raises(ValueError, match=message) as caught:
        make(concurrency=1).run([item(str(i)) for i in range(50)])
    assert len(server.requests) < 50 and KEY not in str(caught.value)


def test_the_key_is_never_sent_where_a_redirect_points(server, make):
    other = JudgeServer()
    try:
        server.answer = lambda number, body: (302, {"Location": other.url})
        with pytest.raises(ValueError, match="redirects are not followed"):
            make().run([item("1")])
        assert other.headers == [] and KEY not in repr(make()._endpoint)
    finally:
        other.close()


def test_an_unreadable_reply_is_asked_for_again_and_falls_back_when_asks_run_out(server, make, waited):
    replies = {"late": ["hm", "0.9"], "never": ["hm", "well", "no"]}
    server.answer = lambda number, body: completion(replies[body["messages"][0]["content"]].pop(0))
    run = make().run([item("late", asks=3), item("never", asks=3)])
    assert run.values() == {"late": 0.9, "never": 0.0}
    assert run.failures == {"unparsed": 1} and run.failed_attempts == {"unparsed": 4}
    assert run.verdicts[1].reply == "no" and waited == []


def test_a_second_run_over_the_same_cache_sends_nothing_and_agrees(server, make):
    server.answer = lambda number, body: completion("hm" if number % 3 == 0 else str(number))
    items = [item(str(i), asks=2) for i in range(6)]
    first = make().run(items)
    sent = len(server.requests)
    again = make().run(items)
    assert [verdict.value for verdict in again.verdicts] == [verdict.value for verdict in first.verdicts]
    assert (again.failures, again.failed_attempts) == (first.failures, first.failed_attempts)
    assert len(server.requests) == sent


def test_a_run_cut_off_by_failures_goes_on_where_it_stopped(server, make):
    server.answer = lambda n, body: (500, {}) if body["messages"][0]["content"] == "b" else completion("1")
    make().run([item("a"), item("b")])
    server.requests.clear()
    server.answer = lambda number, body: completion("0")
    assert make().run([item("a"), item("b")]).values() == {"a": 1.0, "b": 0.0}
    assert contents(server) == ["b"]


def test_runs_share_no_reply_and_give_mean_and_deviation(server, make):
    totals = []
    for run, reply in enumerate(["0.2", "0.4", "0.4", "0.4", "0.6"]):
        server.answer = lambda number, body, reply=reply: completion(reply)
        totals.append(sum(make().run([item("a"), item("b")], run).values().values()) / 2)
    assert totals == [0.2, 0.4, 0.4, 0.4, 0.6]
    mean, deviation = mean_and_deviation(totals)
    assert mean == pytest.approx(0.4)
    assert deviation == pytest.approx((0.08 / 5) ** 0.5)  # of the population: two of five are 0.2 off
    assert mean_and_deviation([3.0]) == (3.0, 0.0)
    with pytest.raises(ValueError, match="no run"):
        mean_and_deviation([])


def test_equal_requests_of_several_items_are_sent_once(server, make):
    def answer(number: int, body: dict) -> bytes:
        time.sleep(0.01)
        return completion(str(number))

    server.answer = answer
    same = [JudgeItem(str(i), item("same").asks, number_or_none, 0.0) for i in range(8)]
    assert set(make(concurrency=8).run(same).values().values()) == {0.0}
    assert len(server.requests) == 1


class TestReplay:
    def test_it_needs_neither_network_nor_key_and_agrees_whatever_the_endpoint_was(self, server, make):
        items = [item(str(i)) for i in range(3)]
        judged = make().run(items).verdicts
        server.close()
        assert make(replay=True, api_key=None, base_url="http://elsewhere.invalid").run(items).verdicts == judged

    def test_what_is_missing_is_named(self, server, make, tmp_path):
        make().run([item("a")])
        with pytest.raises(JudgeCacheMiss, match="2 of 3 items, first 'b'.*'judge-1', run 0, attempt 0") as caught:
            make(replay=True).run([item("a"), item("b"), item("c")])
        assert str(tmp_path / "cache") in str(caught.value)
        with pytest.raises(JudgeCacheMiss, match="'a'.*run 1"):
            make(replay=True).run([item("a")], run=1)
        assert len(server.requests) == 1


class TestCache:
    def test_a_file_is_named_by_the_sha256_of_the_request_without_endpoint(self, make, tmp_path):
        ask = Ask(({"role": "user", "content": "é"},), temperature=0.0, max_tokens=3)
        make().run([JudgeItem("1", (ask,), number_or_none, 0.0)], run=2)
        request = (
            '{"attempt": 0, "max_tokens": 3, "messages": [{"content": "\\u00e9", "role": "user"}], '
            '"model": "judge-1", "run": 2, "temperature": 0.0}'
        )
        key = hashlib.sha256(request.encode()).hexdigest()
        (file,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
        assert file == tmp_path / "cache" / key[:2] / f"{key}.json"
        entry = json.loads(file.read_text())
        assert entry["request"] == json.loads(request)
        assert entry["reply"] == {"text": "0.5", "served_by": "the-model-2024"}
        assert KEY not in file.read_text()

    @pytest.mark.parametrize("damage", ["", "{", "[]", '{"request": {}, "reply": {"text": "1"}}'])
    def test_a_damaged_file_is_named_and_never_used(self, make, tmp_path, damage):
        make().run([item("1")])
        (file,) = (tmp_path / "cache").rglob("*.json")
        file.write_text(damage)
        with pytest.raises(ValueError, match=f"{file.name} .* delete it"):
            make().run([item("1")])

    def test_failures_are_never_stored(self, server, make, tmp_path):
        server.answer = lambda number, body: (500, {})
        make().run([item("1")])
        assert not list((tmp_path / "cache").rglob("*.json"))

    def test_readers_see_whole_files_while_several_judges_write_them(self, server, make, tmp_path):
        server.answer = lambda number, body: completion("1" + " " * 20_000)
        torn: list[str] = []
        done = threading.Event()

        def read() -> None:
            while not done.wait(0.002):
                for file in (tmp_path / "cache").rglob("*.json"):
                    try:
                        json.loads(file.read_text())
                    except ValueError:
                        torn.append(file.name)

        reader = threading.Thread(target=read)
        reader.start()
        items = [item(str(i)) for i in range(20)]
        judges = [threading.Thread(target=make().run, args=(items,)) for _ in range(3)]
        for thread in judges:
            thread.start()
        for thread in judges:
            thread.join()
        done.set()
        reader.join()
        assert torn == [] and len(make(replay=True).run(items).values()) == 20
        assert not list((tmp_path / "cache").rglob("*.tmp"))


class TestBenchmarks:
    def test_mmvet_appends_the_row_to_the_table_and_asks_for_three_tokens_at_temperature_0(self, server, make):
        run = make().run([mmvet_item("v1_0", "x?", "a<AND>b<OR>c", "it {is} | a\nb")])
        (request,) = server.requests
        assert request["messages"] == [
            {"role": "user", "content": read_prompt("mmvet") + "\nx? | a <AND> b <OR> c | it {is} | a\nb | "}
        ]
        assert (request["temperature"], request["max_tokens"]) == (0.0, 3)
        assert run.values() == {"v1_0": 0.5}

    def test_mmvet_re_asks_with_another_line_and_rising_temperature_then_scores_0(self, server, make):
        server.answer = lambda number, body: completion(" 0.5")  # nothing before the first space
        run = make().run([mmvet_item("v1_0", "x?", "a", "b", prompt="TABLE")])
        first, again = "TABLE\nx? | a | b | ", "\nPredict the correctness of the answer (digit): "
        assert contents(server) == [first] + [first + again] * 4
        assert [request["temperature"] for request in server.requests] == [0.0, 0.0, 0.5, 1.0, 1.5]
        assert run.values() == {"v1_0": 0.0} and run.failures == {"unparsed": 1}

    def test_the_mmvet_table_has_seven_rows_scored_in_tenths(self):
        rows = [line.split(" | ") for line in read_prompt("mmvet").splitlines() if line.count(" | ") == 3][2:]
        assert len(rows) == 7
        assert all(float(row[3]) * 10 == pytest.approx(round(float(row[3]) * 10)) for row in rows)

    @pytest.mark.parametrize(
        ("reply", "rating", "failures"),
        [
            ("Good.\nRating: 5", 5, {}),
            ("Rating: 0", 0, {}),
            ("Rating: 4. I repeat: rating: 4", 4, {}),
            ("**Rating:** 4", 0, {"unparsed": 1}),
            ("Rating: 2 or Rating: 0", 0, {"unparsed": 1}),
        ],
    )
    @pytest.mark.filterwarnings("error")
    def test_mmhal_asks_once_and_counts_replies_without_one_rating(self, server, make, reply, rating, failures):
        server.answer = lambda number, body: completion(reply)
        run = make().run([mmhal_item("0", ["Cat", "Dog"], "q {response}?", "gold", "said")])
        assert run.values() == {"0": rating} and run.failures == failures
        (text,) = contents(server)
        assert text.endswith(
            "Image contents: Cat, Dog\nQuestion: q {response}?\nReference answer: gold\nResponse: said"
        )
        assert server.requests[0]["temperature"] == 0.0

    def test_the_mmhal_prompt_has_five_examples_and_seven_levels_in_the_form_that_is_read(self):
        prompt = read_prompt("mmhal")
        assert [prompt.count(f"\nExample {number}\n") for number in range(1, 7)] == [1, 1, 1, 1, 1, 0]
        assert prompt.count("\nRating: ") == 6  # the form, and one in each example
        assert [f"\n{level}: " in prompt for level in range(8)] == [True] * 7 + [False]

    def test_video_replies_are_asked_for_five_times_at_the_default_temperature_then_no(self, server, make):
        server.answer = lambda number, body: completion("```{'pred': 'yes', 'score': 4}```")
        run = make().run([video_item("7", "who?", "man", "a guy")])
        assert run.values() == {"7": ("no", 0)} and run.failures == {"unparsed": 1}
        assert len(server.requests) == 5 and "temperature" not in server.requests[0]
        assert [message["role"] for message in server.requests[0]["messages"]] == ["system", "user"]
        asked = server.requests[0]["messages"][1]["content"]
        assert "Question: who?\nCorrect answer: man\nPredicted answer: a guy\n" in asked
        assert "{'pred': 'yes', 'score': 4}" in asked

    def test_video_verdicts_are_read(self, server, make):
        server.answer = lambda number, body: completion("{'pred': 'yes', 'score': 4.8}")
        assert make().run([video_item("7", "who?", "man", "a guy")]).values() == {"7": ("yes", 4)}

    @pytest.mark.parametrize(
        ("replies", "choice", "failures"),
        [(["B"], "B", {}), (["Z"], "Z", {}), (["?", "A."], "A", {}), (["?", "?", "?"], "Z", {"unparsed": 1})],
    )
    def test_mmbench_asks_for_a_letter_three_times_and_never_draws_one(self, server, make, replies, choice, failures):
        server.answer = lambda number, body: completion(replies[number])
        run = make().run([mmbench_item("3", "which?", {"A": "cat", "B": "dog"}, "a puppy")])
        assert run.values() == {"3": choice} and run.failures == failures
        assert contents(server)[0].endswith("Question: which?\nOptions:\nA. cat\nB. dog\nAnswer: a puppy\nReply:")
        assert len(server.requests) == len(replies)

    def test_a_prompt_that_lacks_a_slot_is_refused(self):
        with pytest.raises(ValueError, match=r"lacks the slots \['answer', 'options'\]"):
            mmbench_item("3", "which?", {"A": "cat"}, "a", prompt="{question}")
