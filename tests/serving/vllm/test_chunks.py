"""Prompts read in pieces, and models of other shapes: the answers are those of `generate` all the same."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from vllm_cases import CASES, Reader, Reference, answers, differences, engine, save_model

pytest.importorskip("vllm", reason="make test-vllm has an environment with vLLM")


@pytest.mark.parametrize(("layout", "tokens"), [("ours", 13), ("official", 33)])
def test_pieces_that_end_within_images(
    layout: str,
    tokens: int,
    directories: dict[str, Path],
    readers: dict[str, Reader],
    references: dict[str, list[Reference]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = _watched_steps(monkeypatch)
    with engine(directories[layout], max_num_batched_tokens=tokens, max_num_seqs=8) as llm:
        assert differences(answers(llm), readers[layout], references[layout]) == []
    rows = readers[layout].model.config.tokens_per_image
    assert any(visual % rows for visual in steps), "no step ended within an image"


def test_a_last_piece_of_a_single_visual_token(
    directories: dict[str, Path], readers: dict[str, Reader], references: dict[str, list[Reference]], monkeypatch: Any
) -> None:
    """It looks like a token that is being written, which is never visual."""
    (index,) = [index for index, case in enumerate(CASES) if case.name == "an image at the end"]
    prompt = len(references["ours"][index].prompt)
    steps = _watched_steps(monkeypatch, whole=1)
    with engine(directories["ours"], max_num_batched_tokens=prompt - 1, enable_prefix_caching=False) as llm:
        (output,) = answers(llm, [CASES[index]])
    assert steps[1] == 1
    assert list(output.outputs[0].token_ids) == references["ours"][index].tokens


def test_every_part_of_the_decoder_that_can_be_separate(tmp_path: Path) -> None:
    """Queries and the feed-forward network too, biases, and a head that is the embedding."""
    wide = dict(modality_adaptive=["norm", "q", "k", "v", "ffn"], attention_bias=True, tie_word_embeddings=True)
    directory = save_model(tmp_path / "model", "ours", **wide)
    reader = Reader(directory)
    with engine(directory) as llm:
        assert differences(answers(llm), reader, [reader.read(case) for case in CASES]) == []


def _watched_steps(monkeypatch: pytest.MonkeyPatch, whole: int | None = None) -> Counter[int]:
    """Counts the visual tokens of each step from now on; with `whole`, of the steps of so many tokens."""
    from owl2.serving.vllm.model import Owl2ForConditionalGeneration

    forward, steps = Owl2ForConditionalGeneration.forward, Counter[int]()

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._is_vision is not None and whole in (None, len(self._is_vision)):
            steps[int(self._is_vision.sum())] += 1
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Owl2ForConditionalGeneration, "forward", counted)
    return steps
