"""Scores are those of a plain restatement, in any batch, for any kind of image, and have a gradient."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from quality_helpers import PICTURES, Quality, picture
from torch.nn import functional as F

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2ImageProcessorPil
from owl2.quality import QualityScorer
from owl2.quality.protocols import PROTOCOLS, Protocol

PROMPTS = {
    "q_align": "The quality of the image is",
    "q_align_scorer": "The quality of the image is",
    "q_align_repository": "The image of the quality is",
    "evaluation": "The quality of the image is",
    "deqa": "The quality of the image is",
    "pyiqa_0_1_16": "The quality of the image is",
}


def restated(quality: Quality, image: Image.Image, prompt: str, begin: bool = True, words: str = "") -> torch.Tensor:
    """Probabilities of the levels, the long way: own square, full logits of all positions, one image."""
    model, processor = quality
    side = max(image.size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    size = model.config.vision_config.image_size
    pixels = torch.tensor(np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)) / 255.0)
    pixels = (pixels - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    before, after = prompt.split("<|image|>")
    tokenizer = processor.tokenizer
    first = tokenizer(before, add_special_tokens=False)["input_ids"]
    second = tokenizer(after, add_special_tokens=False)["input_ids"]
    rows = [model.config.image_token_id] * model.config.tokens_per_image
    ids = torch.tensor([[*([1] if begin else []), *first, *rows, *second]])
    logits = model(input_ids=ids, pixel_values=pixels.permute(2, 0, 1)[None].float()).logits[0, -1]
    levels = [
        tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        for word in (words or "excellent good fair poor bad").split()
    ]
    assert all(len(level) == 1 for level in levels)
    return torch.softmax(logits[[level[0] for level in levels]], dim=-1)


@pytest.mark.parametrize("name", PROTOCOLS)
@torch.no_grad()
def test_each_protocol_is_its_plain_restatement(golden_quality: Quality, name: str) -> None:
    weights = [1, 0.75, 0.5, 0.25, 0] if name == "q_align_scorer" else [5, 4, 3, 2, 1]
    frame = " ASSISTANT:" if name == "evaluation" else "\nASSISTANT:"
    prompt = f"USER: How would you rate the quality of this image?\n<|image|>{frame} {PROMPTS[name]}"
    scorer = QualityScorer(*golden_quality, protocol=name)
    found = scorer.ratings(PICTURES, ["quality"])["quality"]
    for index, image in enumerate(PICTURES):
        expected = restated(golden_quality, image, prompt, begin=name != "pyiqa_0_1_16")
        torch.testing.assert_close(found.probabilities[index], expected, atol=1e-5, rtol=0)
        assert found.scores[index].item() == pytest.approx(float(expected @ torch.tensor(weights).float()), abs=1e-4)
        values = torch.tensor([5.0, 4, 3, 2, 1])
        mean = float(expected @ values)
        assert found.means[index].item() == pytest.approx(mean, abs=1e-4)
        deviation = float(expected @ (values - mean) ** 2) ** 0.5
        assert found.deviations[index].item() == pytest.approx(deviation, abs=1e-4)


@torch.no_grad()
def test_another_aspect_changes_both_places_of_the_prompt(golden_quality: Quality) -> None:
    prompt = (
        "USER: How would you rate the aesthetics of this image?\n<|image|>\nASSISTANT: The aesthetics of the image is"
    )
    found = QualityScorer(*golden_quality).probabilities(PICTURES[0], aspect="aesthetics")
    torch.testing.assert_close(found, restated(golden_quality, PICTURES[0], prompt), atol=1e-5, rtol=0)


def test_a_batch_gives_what_its_images_give_alone(golden_quality: Quality) -> None:
    together = QualityScorer(*golden_quality, batch_size=5)(PICTURES)
    alone = [float(QualityScorer(*golden_quality, batch_size=1)(image)) for image in PICTURES]
    assert together.tolist() == pytest.approx(alone, abs=1e-4)
    assert len({round(score, 4) for score in alone}) == len(alone)  # the images do differ


def test_several_aspects_take_one_encoding_of_the_image(
    golden_quality: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, encoded = QualityScorer(*golden_quality), []
    encode = scorer.model.model.encode_images
    monkeypatch.setattr(
        scorer.model.model, "encode_images", lambda pixels, **kwargs: encoded.append(len(pixels)) or encode(pixels)
    )
    both = scorer.ratings(PICTURES, ["quality", "aesthetics"])
    assert encoded == [len(PICTURES)]
    for aspect, ratings in both.items():
        torch.testing.assert_close(ratings.scores, scorer(PICTURES, aspect=aspect))


def test_neither_the_vocabulary_nor_generation_is_computed(
    golden_quality: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = golden_quality
    scorer = QualityScorer(model, processor)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the head over the vocabulary was run")

    monkeypatch.setattr(model.lm_head, "forward", refuse)
    monkeypatch.setattr(model, "generate", refuse)
    assert scorer(PICTURES).shape == (5,)


class TestTensors:
    def test_a_batch_in_0_to_1_scores_as_the_same_images_of_8_bits(self, golden_quality: Quality) -> None:
        images = [picture(seed, 90, 60) for seed in range(3)]
        batch = torch.tensor(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 255
        scorer = QualityScorer(*golden_quality)
        torch.testing.assert_close(scorer(batch), scorer(images), atol=5e-3, rtol=0)
        assert scorer(batch[0]).shape == ()

    def test_the_gradient_is_that_of_finite_differences(self, golden_quality: Quality) -> None:
        model, processor = golden_quality
        scorer = QualityScorer(model.double(), processor)
        generator = torch.Generator().manual_seed(0)
        image = 0.3 + 0.4 * torch.rand(1, 3, 24, 40, generator=generator, dtype=torch.float64)
        image.requires_grad_(True)
        scorer(image).sum().backward()
        assert image.grad is not None
        directions = [image.grad]
        for corner in ((slice(12), slice(20)), (slice(12), slice(20, 40)), (slice(12, 24), slice(40))):
            brighter = torch.zeros_like(image.grad)
            brighter[:, :, corner[0], corner[1]] = 1
            directions.append(brighter)
        step, size = 1e-3, float(image.grad.norm())
        assert size > 0.05
        for direction in directions:
            unit = direction / direction.norm()
            with torch.no_grad():
                ends = [float(scorer(image + sign * step * unit)) for sign in (1, -1)]
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float((image.grad * unit).sum()), abs=2e-3 * size)
        model.float()

    @pytest.mark.parametrize(
        "images", [torch.ones(1, 3, 8, 8) * 255, torch.ones(1, 1, 8, 8), torch.ones(1, 3, 8, 8, dtype=torch.uint8)]
    )
    def test_other_tensors_are_refused(self, golden_quality: Quality, images: torch.Tensor) -> None:
        with pytest.raises(ValueError, match="tensor of images"):
            QualityScorer(*golden_quality)(images)

    def test_pixels_are_those_of_the_image_processor(self) -> None:
        from owl2.quality.images import tensor_pixels

        image = picture(3, 123, 77)
        processor = Owl2ImageProcessorPil(size={"height": 56, "width": 56}, aspect="pad")
        batch = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255
        expected = processor(image, return_tensors="pt")["pixel_values"]
        levels = (tensor_pixels(batch, processor) - expected).abs() * 0.2686 * 255  # Pillow rounds twice
        assert float(levels.max()) <= 2.1 and float(levels.mean()) <= 0.5


class TestVideos:
    @torch.no_grad()
    def test_the_frames_of_a_video_share_one_prompt(self, golden_quality: Quality) -> None:
        model, processor = golden_quality
        frames = [picture(seed, 30, 30) for seed in range(3)]
        prompt = (
            "USER: How would you rate the quality of this video?\n<|video|>\nASSISTANT: The quality of the video is"
        )
        inputs = processor(text=prompt, videos=[frames], return_tensors="pt")
        logits = model(**inputs).logits[0, -1]
        words = [
            processor.tokenizer(f" {word}")["input_ids"][1] for word in ("excellent", "good", "fair", "poor", "bad")
        ]
        found, count = QualityScorer(model, processor).rate_video(frames)
        torch.testing.assert_close(found["quality"].probabilities[0], logits[words].softmax(-1), atol=1e-5, rtol=0)
        assert count == 3

    def test_more_frames_than_the_context_holds_are_refused(self, golden_quality: Quality) -> None:
        with pytest.raises(ValueError, match="has room for"):
            QualityScorer(*golden_quality).rate_video([PICTURES[0]] * 40)


class TestLevels:
    def test_a_word_of_several_tokens_is_refused(self, golden_quality: Quality) -> None:
        own = Protocol("own", "<|image|> It is", (1.0, 0.0), "", levels=("good", "mediocre"))
        with pytest.raises(ValueError, match="'mediocre' must be one token"):
            QualityScorer(*golden_quality, protocol=own)

    def test_an_unknown_protocol_lists_the_known(self, golden_quality: Quality) -> None:
        with pytest.raises(
            ValueError, match="choose among q_align, q_align_scorer, q_align_repository, evaluation, deqa, pyiqa"
        ):
            QualityScorer(*golden_quality, protocol="qalign")

    def test_the_begin_token_is_the_only_difference_of_pyiqa(self, golden_quality: Quality) -> None:
        ours, theirs = (
            QualityScorer(*golden_quality, protocol=name)._prompt(PROTOCOLS[name], "quality")
            for name in ("q_align", "pyiqa_0_1_16")
        )
        assert ours.ids == [1, *theirs.ids]


@torch.no_grad()
def test_bfloat16_stays_near(golden_quality: Quality, capsys: pytest.CaptureFixture[str]) -> None:
    model, processor = golden_quality
    exact = QualityScorer(model, processor)(PICTURES)
    low = QualityScorer(model.bfloat16(), processor)(PICTURES)
    single = torch.stack([QualityScorer(model, processor)(image) for image in PICTURES])
    model.load_state_dict(Owl2ForConditionalGeneration.from_pretrained(model.name_or_path).state_dict())
    model.float()
    with capsys.disabled():
        print(
            f"\nbfloat16: {(low - exact).abs().max():.1e} from float32, "
            f"{(low - single).abs().max():.1e} between batch 5 and batch 1"
        )
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, atol=0.1, rtol=0)


def test_float32_softmax_is_used_whatever_the_model(golden_quality: Quality) -> None:
    found = QualityScorer(*golden_quality).probabilities(PICTURES)
    torch.testing.assert_close(found.sum(-1), torch.ones(5))
    assert F.relu(found).equal(found)
