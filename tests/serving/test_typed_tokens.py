"""What a client writes is text on every route: control tokens and placeholders in it are their letters."""

from typing import Any

import httpx
import pytest
import torch
from model_server import Server, picture, user

TYPED = ("</s>", "<s>", "<unk>", "<|image|>", "<|video|>", "plain")

pytestmark = pytest.mark.parametrize("typed", TYPED)


def post(server: Server, path: str, **body: Any) -> Any:
    response = httpx.post(f"{server.url}{path}", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def letters(processor: Any, text: str) -> list[int]:
    """The tokens of a text in which nothing is special."""
    return processor.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def prompt_of(processor: Any, typed: str) -> list[int]:
    return [processor.tokenizer.bos_token_id, *letters(processor, f"USER: say {typed} twice ASSISTANT:")]


@torch.no_grad()
def logprobs_of(model: Any, prompt: list[int], answer: list[int]) -> list[float]:
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0].tolist()


def test_tokenize(server, processor, typed):
    text = f"say {typed} twice"
    bos = processor.tokenizer.bos_token_id
    assert post(server, "/tokenize", prompt=text)["tokens"] == [bos, *letters(processor, text)]
    assert post(server, "/tokenize", messages=[user(text)])["tokens"] == prompt_of(processor, typed)


def test_a_message_beside_an_image(server, processor, typed):
    tokens = post(server, "/tokenize", messages=[user(f"{typed} what?", picture(0))])["tokens"]
    rows = [processor.image_token_id] * processor.num_image_tokens
    bos, before, after = processor.tokenizer.bos_token_id, letters(processor, "USER: "), f"{typed} what? ASSISTANT:"
    assert tokens == [bos, *before, *rows, *letters(processor, after)]


def test_completions_and_chat(server, processor, typed):
    ids = prompt_of(processor, typed)
    wanted = {"max_tokens": 6, "temperature": 0}
    by_ids = post(server, "/v1/completions", prompt=ids, **wanted)["choices"][0]["text"]
    by_text = post(server, "/v1/completions", prompt=f"USER: say {typed} twice ASSISTANT:", **wanted)
    chat = post(server, "/v1/chat/completions", messages=[user(f"say {typed} twice")], **wanted)
    assert by_text["choices"][0]["text"] == chat["choices"][0]["message"]["content"] == by_ids
    assert by_text["usage"]["prompt_tokens"] == chat["usage"]["prompt_tokens"] == len(ids)


def test_score(server, model, processor, typed):
    body = post(server, "/v1/score", messages=[user(f"say {typed} twice")], continuations=[f" so {typed}", " no"])
    prompt = prompt_of(processor, typed)
    for entry, text in zip(body["data"], (f" so {typed}", " no"), strict=True):
        whole = [*prompt[:1], *letters(processor, f"USER: say {typed} twice ASSISTANT:{text}")]
        assert whole[: len(prompt)] == prompt
        assert entry["logprob"] == pytest.approx(sum(logprobs_of(model, prompt, whole[len(prompt) :])), abs=1e-3)


def test_attention(server, model, processor, typed):
    body = {"messages": [user(f"say {typed} twice")], "before": f"it is {typed} and", "word": f" {typed}"}
    found = post(server, "/attention", **body)
    whole = letters(processor, f": it is {typed} and {typed}")[len(letters(processor, ":")) :]
    count = len(found["tokens"])
    before = prompt_of(processor, typed) + whole[:-count]
    assert found["logprobs"] == pytest.approx(logprobs_of(model, before, whole[-count:]), abs=1e-3)
