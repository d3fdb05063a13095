"""Answers of a given form: JSON by a schema, any JSON object, one of several texts."""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch
from model_server import Server, picture, user

pytest.importorskip("llguidance")

SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "blue"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "sure": {"type": "boolean"},
    },
    "required": ["colour", "count", "sure"],
    "additionalProperties": False,
}
CHOICES = ["yes", "no", 'not "quite"', "année\\n", "no way"]


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}}


def choice_format(*choices: str) -> dict[str, Any]:
    return {"type": "choice", "choice": list(choices)}


def post(server: Server, form: Any, **body: Any) -> httpx.Response:
    body = {"messages": [user("what is it?", picture(0))], "max_tokens": 100, "temperature": 0, **body}
    return httpx.post(f"{server.url}/v1/chat/completions", json={**body, "response_format": form}, timeout=60)


def texts(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    assert all(choice["finish_reason"] == "stop" for choice in response.json()["choices"])
    return [choice["message"]["content"] for choice in response.json()["choices"]]


def refusal(response: httpx.Response) -> str:
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"].startswith("response_format"), response.text
    return error["message"]


def fits_schema(text: str) -> bool:
    found = json.loads(text)
    right = found["colour"] in ("red", "blue") and found["count"] in range(100) and isinstance(found["sure"], bool)
    return right and list(found) == SCHEMA["required"]


@torch.no_grad()
def greedily(model: Any, processor: Any, ids: list[int], choices: tuple[str, ...]) -> str:
    """One of the texts, by trying every token of the vocabulary; the space in front of an answer is not shown."""
    pieces = processor.tokenizer.convert_ids_to_tokens(range(model.config.text_config.vocab_size))
    letters = [
        re.sub("<0x(..)>", lambda match: chr(int(match[1], 16)), piece or "").replace("▁", " ") for piece in pieces
    ]
    end, special = processor.tokenizer.eos_token_id, set(processor.tokenizer.all_special_ids)
    targets, text = [space + choice for choice in choices for space in ("", " ")], ""
    while True:
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        leading = [
            token
            for token, piece in enumerate(letters)
            if piece and token not in special and any(target.startswith(text + piece) for target in targets)
        ]
        candidates = [*leading, end] if text in targets else leading
        token = max(candidates, key=lambda token: float(logits[token]))
        if token == end:
            return text.removeprefix(" ")
        ids, text = [*ids, token], text + letters[token]


class TestForms:
    def test_a_schema_holds_greedy_and_sampled_answers_of_a_model_that_knows_no_json(self, server):
        assert all(map(fits_schema, texts(post(server, schema_format(SCHEMA)))))
        sampled = texts(post(server, schema_format(SCHEMA), temperature=1.5, seed=3, n=6))
        assert all(map(fits_schema, sampled)) and len(set(sampled)) > 1

    def test_a_choice_is_one_of_the_texts_to_the_letter(self, server):
        found = texts(post(server, choice_format(*CHOICES), temperature=2, seed=1, n=8))
        assert set(found) <= set(CHOICES) and len(set(found)) > 1
        for choice in CHOICES:
            assert texts(post(server, choice_format(choice))) == [choice]

    def test_a_greedy_choice_takes_the_likeliest_token_of_those_that_lead_to_a_text(self, server, model, processor):
        prompt = processor(text="USER: hello ASSISTANT:")["input_ids"][0]
        for choices in (("yes", "no"), ("no", "no way", "north"), ("x1", "2y")):
            response = post(server, choice_format(*choices), messages=[user("hello")])
            assert texts(response) == [greedily(model, processor, prompt, choices)]

    def test_any_object_is_an_object(self, server):
        """Of a random model it need not end."""
        response = post(server, {"type": "json_object"}, temperature=1, seed=2, max_tokens=30)
        assert response.json()["choices"][0]["message"]["content"].startswith("{")

    def test_requests_with_and_without_forms_do_not_touch_each_other(self, server):
        forms = [schema_format(SCHEMA), choice_format("yes", "no"), {"type": "text"}, schema_format(SCHEMA)] * 2
        seeds = range(len(forms))

        def ask(seed: int) -> str:
            response = post(server, forms[seed], temperature=1, seed=seed)
            return response.json()["choices"][0]["message"]["content"]

        alone = [ask(seed) for seed in seeds]
        with ThreadPoolExecutor(len(forms)) as threads:
            assert list(threads.map(ask, seeds)) == alone
        assert all(fits_schema(alone[seed]) for seed in (0, 3, 4, 7)) and {alone[1], alone[5]} <= {"yes", "no"}

    def test_log_probabilities_tell_of_the_tokens_taken(self, server):
        response = post(server, choice_format("yes"), logprobs=True, top_logprobs=2)
        content = response.json()["choices"][0]["logprobs"]["content"]
        assert "".join(entry["token"] for entry in content[:-1]).strip() == "yes"
        assert all(entry["logprob"] <= entry["top_logprobs"][0]["logprob"] for entry in content)


class TestRefusals:
    @pytest.mark.parametrize(
        ("form", "message"),
        [
            (schema_format({"type": "nonsense"}), "nonsense"),
            (schema_format({"type": "string", "pattern": "("}), "pattern|regex"),
            (schema_format({"type": "object", "dependentSchemas": {}, "unevaluatedItems": False}), "nimplemented"),
            (schema_format({"$ref": "http://127.0.0.1:1/other.json"}), "127.0.0.1"),
            ({"type": "json_schema"}, "json_schema"),
            ({"type": "grammar"}, "grammar"),
            (choice_format(), "choice"),
            (choice_format(""), "choice"),
            (choice_format("x" * 70_000), "over the limit of 65536"),
        ],
    )
    def test_a_form_that_cannot_be_enforced_is_named(self, server, form, message):
        assert re.search(message, refusal(post(server, form)))

    def test_without_llguidance_the_extra_is_named_and_free_answers_go_on(self, server, monkeypatch):
        monkeypatch.setitem(sys.modules, "llguidance", None)
        assert "owl2[structured]" in refusal(post(server, choice_format("yes")))
        assert post(server, {"type": "text"}, max_tokens=2).status_code == 200
