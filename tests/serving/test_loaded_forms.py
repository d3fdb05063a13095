"""What `owl2 serve` loads beside a plain model: its answers under load are those of `generate` of the same model."""

import asyncio
from pathlib import Path

import pytest
import torch
from engine_helpers import TOKENS, greedy, running, tokens_of
from model_directories import adapter_on, wide_model
from model_server import picture

from owl2.checkpoints.loading import load_for_chat
from owl2.serving.engine.prompts import PromptBuilder


@pytest.fixture(scope="module")
def base(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wide_model(directory, tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    ("bits", "adapted", "packages"),
    [
        (None, True, ["peft"]),
        (8, False, ["torchao"]),
        (4, False, ["bitsandbytes"]),
        (4, True, ["bitsandbytes", "peft"]),
    ],
    ids=["LoRA", "8 bits", "4 bits", "LoRA on 4 bits"],
)
def test_greedy_answers_under_load_equal_those_of_generate_alone(
    base: Path, bits: int | None, adapted: bool, packages: list[str], tmp_path: Path
) -> None:
    for package in packages:
        pytest.importorskip(package)
    loaded = (
        load_for_chat(adapter_on(base, tmp_path), base=base, bits=bits) if adapted else load_for_chat(base, bits=bits)
    )
    model, processor = loaded
    build = PromptBuilder(processor, model.config.text_config.vocab_size)
    image, text = {"type": "image"}, {"type": "text", "text": "what is this?"}
    contents = [([text], []), ([image, text], [picture(0)]), ([text, image, image], [picture(1), picture(0)])]
    prompts = [build.of_messages([{"role": "user", "content": parts}], found) for parts, found in contents]
    alone = []
    for prompt in prompts:
        inputs = {"input_ids": torch.tensor([prompt.input_ids]), "pixel_values": prompt.pixel_values}
        output = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
        alone.append(output[0, len(prompt) :].tolist())

    async def check() -> None:
        async with running(loaded, max_batch_tokens=16) as engine:
            answers = await asyncio.gather(*(tokens_of(engine, greedy(prompt)) for prompt in prompts * 2))
            assert [answer for (answer,) in answers] == alone * 2

    asyncio.run(check())
