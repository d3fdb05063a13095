"""`/v1/chat/completions` through the official client."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from model_server import NAME, data_url, picture, user
from openai import APIError, BadRequestError, NotFoundError, OpenAI


def ask(client: OpenAI, *messages, **settings):
    settings = {"temperature": 0, "max_tokens": 12, **settings}
    return client.chat.completions.create(model=NAME, messages=list(messages), **settings)


def text_of(answer, index=0):
    return answer.choices[index].message.content


def tokens_of(answer, index=0) -> tuple[bytes, ...]:
    """The bytes of every token: as text, different answers of a random model may read the same (U+FFFD)."""
    return tuple(bytes(token.bytes or ()) for token in answer.choices[index].logprobs.content)


def streamed(chunks) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


class TestGreedy:
    def test_an_answer_about_an_image_is_that_of_generate(self, client, generated, processor):
        image = picture(1)
        answer = ask(client, user("what is this?", image))
        assert text_of(answer) == generated("what is this?", image)
        assert answer.choices[0].finish_reason == "length"
        inputs = processor(text="USER: <|image|>what is this? ASSISTANT:", images=[image])
        assert answer.usage.prompt_tokens == len(inputs["input_ids"][0])
        assert answer.usage.completion_tokens == 12
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12

    def test_sixteen_clients_at_once_get_what_each_gets_alone(self, client, generated):
        def one(index: int) -> tuple[str, str]:
            images = [picture(seed) for seed in range(index % 3)]
            return text_of(ask(client, user(f"question {index % 5}", *images))), (f"question {index % 5}", images)

        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(one, range(16)))
        assert all(answer == generated(text, *images) for answer, (text, images) in answers)

    def test_earlier_turns_keep_their_images_and_arrays_are_taken_in_every_role(self, client, model, processor):
        image = picture(2)
        messages = [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            user("first", image),
            {"role": "assistant", "content": [{"type": "text", "text": "one"}]},
            {"role": "user", "content": "second"},
        ]
        prompt = "Be brief. USER: <|image|>first ASSISTANT: one</s>USER: second ASSISTANT:"
        inputs = processor(text=prompt, images=[image], return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=0)
        expected = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert text_of(ask(client, *messages)) == expected

    def test_an_address_may_be_a_string_and_detail_is_ignored(self, client):
        image = picture(1)
        text = {"type": "text", "text": "what?"}
        plain = {"role": "user", "content": [{"type": "image_url", "image_url": data_url(image)}, text]}
        detail = {"url": data_url(image, "BMP"), "detail": "high"}
        detailed = {"role": "user", "content": [{"type": "image_url", "image_url": detail}, text]}
        assert (
            text_of(ask(client, plain)) == text_of(ask(client, detailed)) == text_of(ask(client, user("what?", image)))
        )

    def test_the_end_of_the_turn_is_a_stop(self, client, processor):
        end = {str(processor.tokenizer.eos_token_id): 100}
        answer = ask(client, user("hello"), logit_bias=end)
        assert (text_of(answer), answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("", "stop", 1)

    def test_without_a_limit_the_context_is_one(self, client, model, server):
        answer = client.chat.completions.create(model=NAME, messages=[user("hello")], temperature=0)
        assert answer.usage.total_tokens <= server.engine.context == model.config.text_config.max_position_embeddings


class TestStreaming:
    def test_the_pieces_make_the_whole_answer(self, client):
        message = user("what is this?", picture(1))
        whole = ask(client, message)
        chunks = list(ask(client, message, stream=True, stream_options={"include_usage": True}))
        assert streamed(chunks) == text_of(whole)
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
        assert chunks[-1].usage == whole.usage and not chunks[-1].choices
        assert all(chunk.usage is None for chunk in chunks[:-1])
        assert len({chunk.id for chunk in chunks}) == 1

    def test_it_ends_with_the_mark_that_openai_sends(self, server):
        body = {"messages": [user("hello")], "stream": True, "max_tokens": 3, "temperature": 0}
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
            events = [line for line in response.iter_lines() if line]
        assert response.headers["content-type"].startswith("text/event-stream")
        assert events[-1] == "data: [DONE]" and all(json.loads(event[6:]) for event in events[:-1])
        assert "usage" not in json.loads(events[0][6:])

    def test_a_client_that_goes_away_frees_its_place(self, server, client, slow):
        slow(server)
        stream = ask(client, user("hello"), stream=True, max_tokens=200)
        next(iter(stream))
        assert server.engine.in_flight == 1
        stream.close()
        server.wait(lambda: server.engine.in_flight == 0 and server.engine.admission.running == 0)

    def test_a_client_that_goes_away_while_it_waits_for_the_whole_answer_frees_its_place(self, server, slow):
        slow(server)
        impatient = server.client(timeout=0.15)
        with pytest.raises(APIError):
            ask(impatient, user("hello"), max_tokens=200)
        server.wait(lambda: server.engine.in_flight == 0 and server.engine.admission.running == 0)


class TestStop:
    def test_a_text_that_spans_tokens_ends_the_answer_and_is_not_in_it(self, client):
        whole = text_of(ask(client, user("hello", picture(3)), max_tokens=20))
        stop = whole[6:10]
        for settings in ({"stop": stop}, {"stop": ["never said", stop]}):
            answer = ask(client, user("hello", picture(3)), max_tokens=20, **settings)
            assert text_of(answer) == whole[: whole.index(stop)]
            assert answer.choices[0].finish_reason == "stop"
        chunks = ask(client, user("hello", picture(3)), max_tokens=20, stop=stop, stream=True)
        assert streamed(chunks) == whole[: whole.index(stop)]


class TestSampling:
    def test_a_seed_repeats_the_answers_and_several_differ(self, client):
        settings = {"temperature": 1.0, "top_p": 0.9, "logprobs": True}
        first, second = (ask(client, user("hello"), **settings, seed=7, n=3) for _ in range(2))
        answers = [tokens_of(first, index) for index in range(3)]
        assert [tokens_of(second, index) for index in range(3)] == answers and len(set(answers)) == 3
        assert tokens_of(ask(client, user("hello"), **settings, seed=7)) == answers[0]
        assert tokens_of(ask(client, user("hello"), **settings, seed=8)) not in answers
        assert first.usage.completion_tokens == 36

    def test_without_a_seed_answers_differ(self, client):
        answers = {tokens_of(ask(client, user("hello"), temperature=1.0, logprobs=True)) for _ in range(3)}
        assert len(answers) == 3

    def test_the_narrowest_choice_is_greedy(self, client):
        greedy = text_of(ask(client, user("hello")))
        assert text_of(ask(client, user("hello"), temperature=1.5, extra_body={"top_k": 1})) == greedy
        assert text_of(ask(client, user("hello"), temperature=1.5, top_p=1e-9)) == greedy

    def test_a_bias_forces_and_forbids_tokens(self, client, processor):
        forced = ask(client, user("hello"), max_tokens=4, logit_bias={"300": 100})
        assert text_of(forced) == processor.tokenizer.decode([300] * 4)
        two = {"300": 100, "301": 100}
        first = text_of(ask(client, user("hello"), max_tokens=1, logit_bias=two))
        liked = 300 if first == processor.tokenizer.decode([300]) else 301
        other = ask(client, user("hello"), max_tokens=1, logit_bias={**two, str(liked): -100})
        assert text_of(other) == processor.tokenizer.decode([601 - liked]) != first


class TestLogprobs:
    def test_they_are_those_of_a_forward_pass(self, client, model, processor):
        image = picture(1)
        answer = ask(client, user("what?", image), max_tokens=5, logprobs=True, top_logprobs=3)
        inputs = processor(text="USER: <|image|>what? ASSISTANT:", images=[image], return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        output = model.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=0)
        inputs["input_ids"] = output[:, :-1]
        inputs["attention_mask"] = inputs["input_ids"].new_ones(inputs["input_ids"].shape)
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).long()
        scores = model(**inputs).logits[0, length - 1 :].log_softmax(-1)
        content = answer.choices[0].logprobs.content
        for entry, token, row in zip(content, output[0, length:], scores, strict=True):
            assert entry.logprob == pytest.approx(float(row[token]), abs=1e-4)
            assert [top.logprob for top in entry.top_logprobs] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
            assert entry.top_logprobs[0].token == entry.token == piece(processor, int(token))

    def test_a_stream_has_one_entry_for_each_token(self, client):
        chunks = list(ask(client, user("hello"), logprobs=True, stream=True))
        entries = [
            entry
            for chunk in chunks
            for choice in chunk.choices
            if choice.logprobs
            for entry in choice.logprobs.content
        ]
        assert len(entries) == 12


def piece(processor, token: int) -> str:
    anchor = processor.tokenizer("a", add_special_tokens=False)["input_ids"]
    return processor.tokenizer.decode([*anchor, token]).removeprefix("a")


class TestRefusals:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("tools", [{"type": "function", "function": {"name": "f"}}]),
            ("tool_choice", "auto"),
            ("functions", []),
            ("audio", {}),
            ("min_p", 0.1),
            ("temprature", 1),
        ],
    )
    def test_a_field_that_is_not_implemented_is_named(self, client, field, value):
        with pytest.raises(BadRequestError) as error:
            ask(client, user("hello"), extra_body={field: value})
        assert error.value.body["param"].startswith(field) and field in error.value.body["message"]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("temperature", 3),
            ("temperature", "hot"),
            ("top_p", 0),
            ("n", 0),
            ("n", 9),
            ("max_tokens", 0),
            ("max_tokens", 10_000),
            ("stop", [str(index) for index in range(5)]),
            ("stop", ""),
            ("logit_bias", {"32000000": 1}),
            ("logit_bias", {"x": 1}),
            ("logit_bias", {"5": 200}),
            ("top_logprobs", 2),
            ("messages", []),
            ("messages", [{"role": "tool", "content": "x"}]),
            ("messages", [{"role": "assistant", "content": "x"}]),
            ("messages", [{"role": "user", "content": [{"type": "input_audio"}]}]),
            ("stream_options", {"include_usage": True}),
        ],
    )
    def test_a_wrong_value_is_a_bad_request_that_says_so(self, server, field, value):
        body = {"messages": [user("hello")], "max_tokens": 2, field: value}
        response = httpx.post(f"{server.url}/v1/chat/completions", json=body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert (
            error["type"] == "invalid_request_error" and field.split("_")[0] in f"{error['param']} {error['message']}"
        )

    def test_a_field_that_cannot_change_the_answer_is_taken(self, client):
        extra = {"user": "me", "metadata": {"a": "b"}, "store": False, "response_format": {"type": "text"}}
        assert text_of(ask(client, user("hello"), extra_body=extra)) == text_of(ask(client, user("hello")))

    def test_another_model_is_not_found(self, client):
        with pytest.raises(NotFoundError, match="tiny"):
            client.chat.completions.create(model="gpt", messages=[user("hello")])

    def test_what_is_not_json_is_a_bad_request(self, server):
        headers = {"content-type": "application/json"}
        for body in (b"{", b"", b"[1]", b"\xff"):
            response = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=headers)
            assert response.status_code == 400, body
