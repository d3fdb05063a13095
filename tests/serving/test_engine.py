"""The embedded engine: answers under load are those of `generate` alone, and what a request held comes back."""

import asyncio
import gc
import logging
import random
import weakref
from typing import Any

import pytest
import torch
from engine_helpers import TOKENS, eventually, greedy, running, tokens_of
from model_server import picture

from owl2.serving.engine.engine import AnswerRequest
from owl2.serving.engine.errors import Overloaded, PromptTooLong, RequestError, WorkerCrashed
from owl2.serving.engine.prompts import Prompt, PromptBuilder
from owl2.serving.engine.sampler import Sampling

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def prompts(model, processor) -> list[Prompt]:
    """Text alone, images first and inside, one image in several prompts, long and short ones."""
    build = PromptBuilder(processor, model.config.text_config.vocab_size)
    images = [picture(seed) for seed in range(3)]
    image, text = {"type": "image"}, lambda words: {"type": "text", "text": words}  # noqa: E731
    contents = [
        ([text("hello")], []),
        ([image, text("what is this?")], images[:1]),
        ([image, text("what is this?")], images[1:2]),
        ([image, text("what is that?")], images[:1]),
        ([text("one "), image, text(" two "), image, text(" three")], [images[2], images[0]]),
        ([text("many words " * 20), image, text("and more " * 10)], images[1:2]),
        ([image, image, image, text("which?")], images),
        ([text("hello")], []),
    ]
    return [build.of_messages([{"role": "user", "content": parts}], found) for parts, found in contents]


@pytest.fixture(scope="module")
def alone(model, prompts) -> list[list[int]]:
    """Tokens that `generate` gives each prompt alone."""
    answers = []
    for prompt in prompts:
        inputs: dict[str, Any] = {"input_ids": torch.tensor([prompt.input_ids])}
        if prompt.pixel_values is not None:
            inputs["pixel_values"] = prompt.pixel_values
        output = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
        answers.append(output[0, len(prompt) :].tolist())
    return answers


class TestGreedyAnswers:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"max_batch_tokens": 8},  # every prompt is read in pieces, most of them through an image
            {"max_batch_tokens": 13, "shares_prefixes": False},
            {"cache_tokens": 320},  # few fit at the same time
            {"max_requests": 2},
        ],
        ids=["plain", "small pieces", "pieces without prefix cache", "small cache", "two at a time"],
    )
    def test_under_load_equal_those_of_generate_alone(self, loaded, prompts, alone, options):
        async def check() -> None:
            async with running(loaded, **options) as engine:
                order = random.Random(0).sample(range(len(prompts)), len(prompts)) * 2
                answers = await asyncio.gather(*(tokens_of(engine, greedy(prompts[index])) for index in order))
                assert [answer for (answer,) in answers] == [alone[index] for index in order]

        asyncio.run(check())

    def test_an_image_that_was_evicted_and_came_back_is_not_taken_for_another(self, loaded, model, prompts, alone):
        one_image = model.config.tokens_per_image * model.config.text_config.hidden_size * 4

        async def check() -> None:
            async with running(loaded, image_bytes=one_image) as engine:
                for index in (1, 2, 1, 3, 2, 1):  # two images in turns, in a table of one
                    assert await tokens_of(engine, greedy(prompts[index])) == [alone[index]]
                assert engine.images.evictions == 4

        asyncio.run(check())

    def test_an_image_is_encoded_once(self, loaded, prompts):
        async def check() -> None:
            async with running(loaded) as engine:
                for index in (1, 3, 1):
                    await tokens_of(engine, greedy(prompts[index]))
                assert (engine.images.misses, engine.images.hits) == (1, 2)

        asyncio.run(check())


class TestSampledAnswers:
    SAMPLING = Sampling(temperature=1.0, top_p=0.95, top_k=200, top_logprobs=0)

    def test_a_seed_gives_the_same_answers_alone_and_under_load(self, loaded, prompts):
        requests = [
            AnswerRequest(prompt, self.SAMPLING, TOKENS, seed, choices=2) for seed, prompt in enumerate(prompts)
        ]

        async def check() -> None:
            async with running(loaded) as engine:
                alone = [await tokens_of(engine, request) for request in requests]
            async with running(loaded, max_batch_tokens=16) as engine:
                together = await asyncio.gather(*(tokens_of(engine, request) for request in requests))
            assert together == alone
            assert all(first != second for first, second in alone)
            assert len({tuple(answer) for answers in alone for answer in answers}) == 2 * len(prompts)

        asyncio.run(check())


class TestWhatARequestHolds:
    def test_comes_back_within_a_step_when_its_client_goes_away(self, loaded, prompts):
        async def check() -> None:
            async with running(loaded, shares_prefixes=False) as engine:
                request = AnswerRequest(prompts[4], GREEDY, 100, 0, choices=3)
                deltas = engine.answer(request)
                await anext(deltas)
                assert engine.worker.free_cache < 1 and engine.in_flight == 3
                steps, prepare = [], engine.sampler.prepare_tensor_args
                engine.sampler.prepare_tensor_args = lambda rows: steps.append(len(rows)) or prepare(rows)
                await deltas.aclose()
                assert engine.in_flight == 0 and engine.admission.running == 0 and not engine.sampler.draws
                written = engine.tokens_written
                await eventually(lambda: engine.worker.free_cache == 1)
                assert engine.tokens_written == written and len(steps) <= 2, "the step that ran, and one more"
                assert not any(engine.images._pins)

        asyncio.run(check())

    def test_comes_back_when_the_client_goes_away_while_its_images_are_encoded(self, loaded, prompts):
        async def check() -> None:
            async with running(loaded) as engine:
                task = asyncio.create_task(tokens_of(engine, greedy(prompts[6])))
                await eventually(lambda: engine.admission.running == 1)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await eventually(lambda: engine.images.misses == 3 and not any(engine.images._pins))
                assert engine.admission.running == 0 and engine.in_flight == 0

        asyncio.run(check())

    def test_images_of_requests_in_flight_are_never_evicted(self, loaded, model, prompts):
        two_images = 2 * model.config.tokens_per_image * model.config.text_config.hidden_size * 4

        async def check() -> None:
            async with running(loaded, image_bytes=two_images) as engine:
                deltas = engine.answer(AnswerRequest(prompts[4], GREEDY, 100, 0))
                await anext(deltas)
                with pytest.raises(Overloaded, match="2 images"):
                    await tokens_of(engine, greedy(prompts[2]))
                await deltas.aclose()
                await tokens_of(engine, greedy(prompts[2]))

        asyncio.run(check())


class TestCrash:
    def test_what_is_in_flight_fails_and_the_worker_starts_again(self, loaded, prompts, alone, monkeypatch):
        async def check() -> None:
            async with running(loaded) as engine:
                deltas = engine.answer(AnswerRequest(prompts[0], GREEDY, 100, 0))
                await anext(deltas)
                with monkeypatch.context() as patch:
                    patch.setattr(engine.images, "lookup", broken)
                    with pytest.raises(WorkerCrashed, match="no such image"):
                        await tokens_of(engine, greedy(prompts[1]))
                with pytest.raises(WorkerCrashed, match="no such image"):
                    async for _ in deltas:
                        pass
                await eventually(lambda: engine.is_healthy)
                assert engine.crashes == 1 and engine.in_flight == 0 and not any(engine.images._pins)
                assert await tokens_of(engine, greedy(prompts[1])) == [alone[1]]

        asyncio.run(check())

    def test_the_cache_of_the_crashed_worker_is_gone_when_the_next_one_has_its_own(self, loaded, prompts, monkeypatch):
        # pytest keeps what is logged, here an error with everything that it refers to
        monkeypatch.setattr(logging.getLogger("ContinuousBatchingLogger"), "disabled", True)

        async def check() -> None:
            async with running(loaded) as engine:
                cache = weakref.ref(engine.worker._manager.batch_processor.cache)
                gc.disable()  # what is collected by chance may as well be collected much later
                try:
                    with monkeypatch.context() as patch:
                        patch.setattr(engine.images, "lookup", broken)
                        with pytest.raises(WorkerCrashed):
                            await tokens_of(engine, greedy(prompts[1]))
                    await eventually(lambda: engine.is_healthy)
                    assert cache() is None
                finally:
                    gc.enable()

        asyncio.run(check())

    def test_one_that_crashes_again_and_again_stays_down(self, loaded, prompts, monkeypatch):
        async def check() -> None:
            async with running(loaded) as engine:
                monkeypatch.setattr(engine.images, "lookup", broken)
                for count in range(1, 4):
                    await eventually(lambda: engine.is_healthy)
                    with pytest.raises(WorkerCrashed):
                        await tokens_of(engine, greedy(prompts[1]))
                    await eventually(lambda: engine.crashes == count)  # noqa: B023
                await asyncio.sleep(0.2)
                assert not engine.is_healthy
                with pytest.raises(WorkerCrashed):
                    await tokens_of(engine, greedy(prompts[0]))

        asyncio.run(check())


def broken(ids: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no such image")


class TestLimits:
    def test_prompt_and_answer_must_fit_the_context(self, loaded, prompts):
        async def check() -> None:
            async with running(loaded, cache_tokens=64) as engine:
                assert engine.check(prompts[0], None) == 64 - len(prompts[0])
                assert engine.check(prompts[0], 64 - len(prompts[0])) == 64 - len(prompts[0])
                with pytest.raises(PromptTooLong, match="64"):
                    engine.check(prompts[0], 65 - len(prompts[0]))
                with pytest.raises(PromptTooLong):
                    engine.check(prompts[5], None)

        asyncio.run(check())

    def test_shutting_down_lets_an_answer_end(self, loaded, prompts, alone):
        async def check() -> None:
            async with running(loaded) as engine:
                task = asyncio.create_task(tokens_of(engine, greedy(prompts[1])))
                await eventually(lambda: engine.in_flight == 1)
                await engine.stop(drain_seconds=10)
                assert await task == [alone[1]]
                with pytest.raises(RequestError, match="shutting down"):
                    await tokens_of(engine, greedy(prompts[0]))

        asyncio.run(check())
