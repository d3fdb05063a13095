"""Answers, perplexity and facts, against one sample at a time."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from owl2.analysis.language import answer, contains_answer, perplexity
from owl2.evaluation.task import Sample
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor


def test_answers_in_batches_are_those_of_one_prompt_at_a_time(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor, tmp_path: Path
) -> None:
    questions = ["what?", "describe the image in the picture", "is it?", "a", "what is the cat in the image?"]
    images = [tmp_path / f"{index}.png" for index in range(len(questions))]
    for index, image in enumerate(images):
        Image.effect_noise((20, 16), 60 + index).convert("RGB").save(image)
    samples = [Sample(asked, asked, None, images=(image,)) for asked, image in zip(questions, images, strict=True)]
    counted: list[int] = []
    together = answer(model, processor, samples, batch_size=3, on_batch=counted.append)
    assert sum(counted) == 5 and counted == [3, 2]
    for question, image, found in zip(questions, images, together, strict=True):
        inputs = processor(text=f"USER: <|image|>{question} ASSISTANT:", images=str(image), return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        alone = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert found == alone
    assert len(set(together)) > 1


def test_perplexity_is_that_of_all_tokens_whatever_the_batches(
    model: Owl2ForConditionalGeneration, processor: Owl2Processor
) -> None:
    texts = ["a cat is on the mat", "describe", "the image in the picture is big"]
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([processor.encode_text(text)["input_ids"]])
        logits = model(input_ids=ids).logits[0, :-1]
        total += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    for size in (1, 2, 3):
        assert perplexity(model, processor, texts, batch_size=size) == pytest.approx(math.exp(total / count), rel=1e-4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("It is Paris.", True), ("paris", True), ("Parisian food", False), ("", False), ("8 of them", True)],
)
def test_a_fact_counts_only_as_a_whole_word(text: str, expected: bool) -> None:
    assert contains_answer(text, ["Paris", "8"]) is expected
