"""Completions, tokens, scores, and what the server tells of itself."""

import math

import httpx
import pytest
import torch
from model_server import NAME, picture, user
from openai import BadRequestError, NotFoundError

from owl2 import __version__


def post(server, path, **body):
    return httpx.post(server.url + path, json=body)


def completion(client, prompt, **settings):
    return client.completions.create(model=NAME, prompt=prompt, **{"temperature": 0, "max_tokens": 8, **settings})


class TestCompletions:
    @pytest.fixture
    def expected(self, model, processor):
        def answer(text: str) -> str:
            inputs = processor(text=text, return_tensors="pt")
            output = model.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=0)
            return processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

        return answer

    def test_a_text_goes_on_as_generate_lets_it(self, client, expected):
        assert completion(client, "the cat").choices[0].text == expected("the cat")

    def test_several_prompts_are_answered_in_their_order(self, client, expected):
        answer = completion(client, ["one", "two words", "three"], n=2)
        assert [choice.index for choice in answer.choices] == list(range(6))
        texts = [expected(text) for text in ("one", "two words", "three")]
        assert [choice.text for choice in answer.choices] == [text for text in texts for _ in range(2)]
        assert answer.usage.completion_tokens == 48

    def test_ids_are_a_prompt_too(self, client, processor, expected):
        ids = processor(text="the cat")["input_ids"][0]
        assert completion(client, ids).choices[0].text == expected("the cat")
        assert [choice.text for choice in completion(client, [ids, ids]).choices] == [expected("the cat")] * 2

    def test_a_stream_makes_the_same_texts(self, client):
        whole = completion(client, ["one", "two words"])
        texts = ["", ""]
        for chunk in completion(client, ["one", "two words"], stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].text
        assert texts == [choice.text for choice in whole.choices]

    def test_logprobs_have_the_form_of_this_route(self, client):
        logprobs = completion(client, "one", logprobs=2).choices[0].logprobs
        assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 8
        assert logprobs.text_offset[:2] == [0, len(logprobs.tokens[0])]
        likeliest = [max(top.values()) for top in logprobs.top_logprobs]
        assert likeliest == pytest.approx(logprobs.token_logprobs)

    @pytest.mark.parametrize("prompt", ["", [], [32_000], [-1], [[]], ["a", ""]])
    def test_prompts_that_cannot_be_are_bad_requests(self, client, prompt):
        with pytest.raises(BadRequestError) as error:
            completion(client, prompt)
        assert error.value.body["param"].startswith("prompt")

    @pytest.mark.parametrize(("field", "value"), [("suffix", "x"), ("echo", True), ("best_of", 2)])
    def test_fields_that_are_not_implemented_are_named(self, client, field, value):
        with pytest.raises(BadRequestError, match=field):
            completion(client, "one", **{field: value})


class TestTokens:
    def test_a_text_goes_to_tokens_and_back(self, server, processor):
        tokens = post(server, "/tokenize", prompt="two words").json()
        assert tokens["tokens"] == processor(text="two words")["input_ids"][0] and tokens["count"] == len(
            tokens["tokens"]
        )
        text = post(server, "/detokenize", tokens=tokens["tokens"][1:]).json()["prompt"]
        assert text == "two words"

    def test_messages_count_with_their_images(self, server, processor):
        image = picture(1)
        expected = processor(text="USER: <|image|>what? ASSISTANT:", images=[image])["input_ids"][0]
        assert post(server, "/tokenize", messages=[user("what?", image)]).json()["tokens"] == expected

    @pytest.mark.parametrize("body", [{}, {"prompt": "a", "messages": [user("a")]}, {"prompt": "a", "x": 1}])
    def test_anything_else_is_a_bad_request(self, server, body):
        assert post(server, "/tokenize", **body).status_code == 400

    @pytest.mark.parametrize("tokens", [[], [32_000], [-1], ["a"], None])
    def test_tokens_that_are_not_of_the_vocabulary_are_bad_requests(self, server, tokens):
        response = post(server, "/detokenize", tokens=tokens)
        assert response.status_code == 400 and response.json()["error"]["param"].startswith("tokens")


class TestScore:
    def test_log_probabilities_are_those_of_forward_passes(self, server, model, processor):
        image, words = picture(1), [" yes", " no", " a longer one"]
        body = post(server, "/v1/score", messages=[user("is it?", image)], continuations=words).json()
        prompt = "USER: <|image|>is it? ASSISTANT:"
        expected = []
        length = len(processor(text=prompt, images=[image])["input_ids"][0])
        for word in words:
            inputs = processor(text=prompt + word, images=[image], return_tensors="pt")
            scores = model(**inputs).logits[0, length - 1 : -1].log_softmax(-1)
            expected.append(float(scores.gather(1, inputs["input_ids"][0, length:, None]).sum()))
        assert [entry["logprob"] for entry in body["data"]] == pytest.approx(expected, abs=1e-4)
        probabilities = torch.tensor(expected).softmax(0).tolist()
        assert [entry["probability"] for entry in body["data"]] == pytest.approx(probabilities, abs=1e-5)
        assert math.fsum(entry["probability"] for entry in body["data"]) == pytest.approx(1)
        assert body["usage"]["prompt_tokens"] == length

    @pytest.mark.parametrize("continuations", [[], [""], "yes", ["a"] * 65, ["word " * 300]])
    def test_continuations_that_cannot_be_are_bad_requests(self, server, continuations):
        assert post(server, "/v1/score", messages=[user("a")], continuations=continuations).status_code == 400


class TestTheServer:
    def test_it_lists_its_model(self, client, server):
        (model,) = client.models.list().data
        assert (model.id, model.max_model_len, model.modalities) == (NAME, server.engine.context, ["text", "image"])
        assert client.models.retrieve(NAME).id == NAME
        with pytest.raises(NotFoundError):
            client.models.retrieve("other/model")

    def test_it_tells_its_version_and_health(self, server):
        assert httpx.get(f"{server.url}/version").json() == {"version": __version__}
        assert httpx.get(f"{server.url}/health").status_code == 200

    def test_its_metrics_count_tokens_and_images(self, server, client):
        def metrics() -> dict[str, float]:
            lines = httpx.get(f"{server.url}/metrics").text.splitlines()
            pairs = [line.rsplit(" ", 1) for line in lines if line and not line.startswith("#")]
            return {name: float(value) for name, value in pairs}

        before = metrics()
        messages = [user("hello", picture(77))]
        answer = client.chat.completions.create(model=NAME, messages=messages, max_tokens=5, temperature=0)
        after = metrics()
        assert after["owl2_answer_tokens_total"] - before["owl2_answer_tokens_total"] == 5
        assert after["owl2_prompt_tokens_total"] - before["owl2_prompt_tokens_total"] == answer.usage.prompt_tokens
        assert after["owl2_image_cache_misses_total"] - before["owl2_image_cache_misses_total"] == 1
        grown = after["owl2_image_cache_bytes"] - before["owl2_image_cache_bytes"]
        assert grown == server.engine.images.bytes_per_image
        requests = 'owl2_requests_total{route="/v1/chat/completions",status="200"}'
        assert after[requests] - before.get(requests, 0) == 1
        assert after["owl2_worker_up"] == 1
        count = "owl2_time_to_first_token_seconds_count"
        assert after[count] - before[count] == 1

    def test_it_has_no_page_that_loads_scripts_from_elsewhere(self, server):
        assert [httpx.get(server.url + path).status_code for path in ("/docs", "/redoc")] == [404, 404]

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
    def test_its_document_describes_answers_and_refusals_as_they_are(self, server, path):
        document = httpx.get(f"{server.url}/openapi.json").json()
        responses = document["paths"][path]["post"]["responses"]
        assert {"200", "400", "429", "503"} <= set(responses) and "422" not in responses
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
