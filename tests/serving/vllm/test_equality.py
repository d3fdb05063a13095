"""vLLM answers as `generate` does to each request alone, in float32: prompt ids, tokens and log-probabilities."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vllm_cases import CASES, Reader, Reference, answers, differences, engine

pytest.importorskip("vllm", reason="make test-vllm has an environment with vLLM")


@pytest.fixture(scope="module")
def llm(directories: dict[str, Path]) -> Iterator[Any]:
    """An engine that the tests share."""
    with engine(directories["ours"]) as running:
        yield running


@pytest.fixture
def fresh(llm: Any) -> Any:
    """The engine without anything in its caches."""
    llm.reset_prefix_cache()
    llm.reset_mm_cache()
    return llm


def test_a_batch_of_text_images_and_videos(
    fresh: Any, readers: dict[str, Reader], references: dict[str, list[Reference]]
) -> None:
    assert differences(answers(fresh), readers["ours"], references["ours"]) == []


def test_beginnings_are_shared_and_another_image_in_the_same_place_is_not(
    fresh: Any, readers: dict[str, Reader], references: dict[str, list[Reference]]
) -> None:
    answers(fresh)
    again = answers(fresh)
    assert differences(again, readers["ours"], references["ours"]) == []
    cached = {case.name: output.num_cached_tokens for case, output in zip(CASES, again, strict=True)}
    assert cached["image A"] >= 64
    fresh.reset_prefix_cache()
    one, other, same = (answers(fresh, [case])[0] for case in CASES[7:10])
    in_front = len(readers["ours"].processor(text=CASES[7].text.partition("<|image|>")[0])["input_ids"][0])
    assert one.num_cached_tokens == 0
    assert 0 < other.num_cached_tokens <= in_front
    assert same.num_cached_tokens > in_front


def test_without_the_modality_indicator_answers_about_images_differ(
    fresh: Any, readers: dict[str, Reader], references: dict[str, list[Reference]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what the other tests compare does depend on the routing of visual tokens."""
    from owl2.serving.vllm.model import Owl2ForConditionalGeneration

    forward = Owl2ForConditionalGeneration.forward

    def without_indicator(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._is_vision = None
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Owl2ForConditionalGeneration, "forward", without_indicator)
    found = differences(answers(fresh), readers["ours"], references["ours"])
    with_media = [case.name for case in CASES if case.images or case.videos]
    assert [each.partition(":")[0] for each in found] == with_media
