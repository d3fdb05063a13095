"""`/attention` against the functions of `owl2 attention`, and what it refuses."""

import httpx
import pytest
import torch
from model_server import picture, user

from owl2.analysis.attention.occlusion import occlusion_map
from owl2.analysis.attention.recording import decoder_attention
from owl2.analysis.attention.shares import modality_shares
from owl2.analysis.attention.study import Study, image_map

IMAGE = picture(1)


def post(server, path="/attention", **body):
    return httpx.post(server.url + path, json=body, timeout=60)


@pytest.fixture(scope="module")
def words(processor):
    """An answer that nobody generated, in front of which and of whose last word stand known tokens."""
    ids = processor(text="USER: <|image|>what? ASSISTANT: two words", images=[IMAGE], return_tensors="pt")
    count = len(processor(text="USER: <|image|>what? ASSISTANT: two", images=[IMAGE])["input_ids"][0])
    return ids, count


class TestMaps:
    def test_they_are_those_of_a_study_of_the_same_answer(self, server, model, processor, words):
        inputs, first = words
        length = inputs["input_ids"].shape[1]
        body = post(server, messages=[user("what?", IMAGE)], before="two ", word="words", layers=[1], heads=[0, 1])
        assert body.status_code == 200, body.text
        found = body.json()
        assert len(found["tokens"]) == length - first and "".join(found["tokens"]).strip() == "words"
        recorded = decoder_attention(model, inputs, range(first - 1, length - 1), heads=[0, 1])
        chosen = recorded._replace(weights=recorded.weights[..., : length - 1])
        visual = inputs["mm_token_type_ids"][0, : length - 1] != 0
        row = chosen.weights[1, 0].mean(0)
        assert found["images"][0]["share"] == pytest.approx(float(row[visual].sum()), abs=1e-5)
        assert sum(map(sum, found["images"][0]["map"])) == pytest.approx(1, abs=1e-4)
        with torch.no_grad():
            scores = model(**inputs).logits[0].log_softmax(-1)
        expected = [float(scores[place - 1, inputs["input_ids"][0, place]]) for place in range(first, length)]
        assert found["logprobs"] == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize("minus_average", [False, True])
    @pytest.mark.parametrize("through", ["last", "rollout"])
    def test_the_map_is_that_of_the_command(self, server, model, processor, words, through, minus_average):
        inputs, first = words
        length = inputs["input_ids"].shape[1]
        until = {key: value[:, : length - 1] if value.dim() == 2 else value for key, value in inputs.items()}
        prompt = len(processor(text="USER: <|image|>what? ASSISTANT:", images=[IMAGE])["input_ids"][0])
        attention = decoder_attention(model, until, range(first - 1, length - 1))
        average = decoder_attention(model, until, range(1, prompt), mean=True)
        shares = modality_shares(attention, until["mm_token_type_ids"] != 0)
        study = Study(until, prompt, "words", [""] * (length - first), attention, average, shares)
        expected = image_map(model, study, through=through, subtract_average=minus_average)
        body = {"messages": [user("what?", IMAGE)], "before": "two ", "word": "words", "through": through}
        found = post(server, **body, minus_average=minus_average).json()
        torch.testing.assert_close(torch.tensor(found["images"][0]["map"]), expected, atol=1e-4, rtol=1e-3)
        assert found["shares"]["vision"] == pytest.approx(shares.vision.tolist(), abs=1e-4)

    def test_each_image_has_its_own(self, server):
        messages = [user("a", IMAGE), {"role": "assistant", "content": "b"}, user("c", picture(2), picture(3))]
        found = post(server, messages=messages, word="word").json()
        assert len(found["images"]) == 3
        assert sum(image["share"] for image in found["images"]) < 1

    def test_a_conversation_without_images_has_shares_only(self, server):
        found = post(server, messages=[user("a")], word="word").json()
        assert found["images"] == [] and set(found["shares"]["vision"]) == {0.0}

    def test_what_was_averaged_is_said(self, server):
        body = {"messages": [user("a", IMAGE)], "word": "word"}
        assert "Mean over all " in post(server, **body).json()["averaged"]
        said = post(server, **body, layers=[1, 0], heads=[1], minus_average=True, through="rollout").json()["averaged"]
        assert "layers 0, 1, head 1" in said and "rolled out, less the average" in said

    def test_answers_in_flight_are_not_disturbed(self, server, client, generated):
        stream = client.chat.completions.create(
            model="tiny", messages=[user("what?", IMAGE)], stream=True, temperature=0, max_tokens=12
        )
        text = ""
        for index, chunk in enumerate(stream):
            if index == 2:
                assert post(server, messages=[user("a", picture(5))], word="word").status_code == 200
            text += chunk.choices[0].delta.content or ""
        assert text == generated("what?", IMAGE)


class TestOcclusion:
    def test_it_is_that_of_the_command(self, server, model, words):
        inputs, first = words
        found = post(
            server, "/attention/occlusion", messages=[user("what?", IMAGE)], before="two ", word="words", groups=2
        ).json()
        prompt = {key: value[:, :first] if value.dim() == 2 else value for key, value in inputs.items()}
        expected = occlusion_map(model, prompt, int(inputs["input_ids"][0, first]), groups=2)
        torch.testing.assert_close(torch.tensor(found["map"]), expected, atol=1e-4, rtol=1e-3)

    def test_groups_are_limited(self, with_settings):
        server = with_settings("limits.occlusion_groups=2")
        body = {"messages": [user("a", IMAGE)], "word": "word"}
        assert post(server, "/attention/occlusion", **body, groups=2).is_success
        response = post(server, "/attention/occlusion", **body, groups=3)
        assert response.status_code == 400 and response.json()["error"]["param"] == "groups"

    @pytest.mark.parametrize("image", [-1, 1])
    def test_an_image_that_is_not_there_is_a_bad_request(self, server, image):
        body = {"messages": [user("a", IMAGE)], "word": "word", "image": image}
        response = post(server, "/attention/occlusion", **body)
        assert response.status_code == 400 and response.json()["error"]["param"] == "image"


class TestRefusals:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("word", ""),
            ("word", "  "),
            ("layers", []),
            ("layers", [99]),
            ("heads", [-1]),
            ("through", "x"),
            ("stream", True),
        ],
    )
    def test_what_cannot_be_is_a_bad_request_that_names_it(self, server, field, value):
        response = post(server, **{"messages": [user("a", IMAGE)], "word": "word", field: value})
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"].startswith(field)

    def test_tokens_of_the_word_are_limited(self, with_settings):
        server = with_settings("limits.attention_tokens=2")
        body = {"messages": [user("a", IMAGE)]}
        response = post(server, **body, word="one two three four")
        assert response.status_code == 400 and "over the limit of 2" in response.text
        count = len(post(server, **body, before="a ", word="a").json()["tokens"])
        assert count <= 2

    def test_an_answer_longer_than_the_context_is_refused(self, server):
        response = post(server, messages=[user("a", IMAGE)], before="word " * 300, word="word")
        assert response.json()["error"]["code"] == "context_length_exceeded"
