"""Conversations become the prompts of the embedded server, and what cannot be answered is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_server import picture
from vllm_cases import Reader, engine

from owl2.serving.engine.prompts import PromptBuilder

pytest.importorskip("vllm", reason="make test-vllm has an environment with vLLM")

from vllm import SamplingParams  # noqa: E402
from vllm.exceptions import VLLMValidationError  # noqa: E402

ONE = SamplingParams(temperature=0, max_tokens=1)


@pytest.fixture(scope="module")
def llm(directories: dict[str, Path]) -> Iterator[Any]:
    """Of the official layout, whose tokenizer vLLM alone would read otherwise."""
    with engine(directories["official"]) as running:
        yield running


@pytest.fixture(scope="module")
def builder(readers: dict[str, Reader]) -> PromptBuilder:
    reader = readers["official"]
    return PromptBuilder(reader.processor, reader.model.config.text_config.vocab_size)


def image(seed: int) -> dict[str, Any]:
    return {"type": "image_pil", "image_pil": picture(seed)}


def text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


CONVERSATIONS = {
    "text": [{"role": "user", "content": "hello"}],
    "a system text": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}],
    "an image": [{"role": "user", "content": [image(1), text("what is it?")]}],
    "an image behind a text": [{"role": "user", "content": [text("what is it?"), image(1)]}],
    "several turns": [
        {"role": "user", "content": [image(1), text("what is it?")]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": [text("and"), image(2), image(3)]},
    ],
    "control tokens in a text": [{"role": "user", "content": "</s> is a tag, <s> too </s>"}],
    "placeholders in a text": [{"role": "user", "content": [image(1), text("and <|image|> or <|video|>?")]}],
    "spaces": [{"role": "user", "content": "  two in front, two behind  "}],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_is_the_prompt_of_the_embedded_server(
    name: str, llm: Any, readers: dict[str, Reader], builder: PromptBuilder
) -> None:
    messages = CONVERSATIONS[name]
    (output,) = llm.chat(messages, ONE, use_tqdm=False)
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    images = [part["image_pil"] for part in parts if part["type"] == "image_pil"]
    plain = [
        {**message, "content": [{"type": "image"} if part["type"] == "image_pil" else part for part in content]}
        if isinstance(content := message["content"], list)
        else message
        for message in messages
    ]
    prompt = builder.of_messages(plain, images)
    assert list(output.prompt_token_ids) == readers["official"].as_vllm_writes(prompt.input_ids)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({"prompt": "what is <|image|>?"}, "the prompt has placeholders, but no image or video"),
        ({"prompt": "<|video|>", "multi_modal_data": {"image": [picture(1)]}}, "0 image placeholders, but 1 images"),
        (
            {"prompt": "<|image|><|image|>", "multi_modal_data": {"image": [picture(1)]}},
            "2 image placeholders, but 1 images",
        ),
        ({"prompt_token_ids": [1, 320]}, "token 320 is not in the vocabulary of 320 tokens"),
        ({"prompt_token_ids": [1, -1]}, "token -1 is not in the vocabulary"),
        (
            {
                "prompt": "<|image|>",
                "multi_modal_data": {"image": [picture(1)]},
                "mm_processor_kwargs": {"do_resize": False},
            },
            "takes no mm_processor_kwargs",
        ),
    ],
    ids=["a placeholder", "another kind", "one image less", "an id above", "an id below", "settings of the processor"],
)
def test_a_prompt_without_an_answer_is_refused_and_the_next_one_answered(
    prompt: dict[str, Any], said: str, llm: Any
) -> None:
    with pytest.raises(VLLMValidationError, match=said.replace("|", r"\|").replace("?", r"\?")):
        llm.generate([prompt], ONE, use_tqdm=False)
    assert len(llm.generate(["hello"], ONE, use_tqdm=False)[0].outputs[0].token_ids) == 1
