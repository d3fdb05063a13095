"""The golden models with a tokenizer in which the level words are tokens."""

from pathlib import Path

import pytest
from helpers import GOLDENS
from quality_helpers import Quality, quality_tokenizer

from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2ImageProcessorPil, Owl2Processor


@pytest.fixture(scope="session", params=["published_settings", "other_settings"])
def golden_quality(request: pytest.FixtureRequest) -> Quality:
    """A golden model of the official code, its images padded as the family's are."""
    model = Owl2ForConditionalGeneration.from_pretrained(GOLDENS / request.param).eval()
    size = model.config.vision_config.image_size
    image_processor = Owl2ImageProcessorPil(size={"height": size, "width": size}, aspect="pad")
    processor = Owl2Processor(image_processor, quality_tokenizer(), num_image_tokens=model.config.tokens_per_image)
    return model, processor


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Golden model a with that tokenizer, as we save it."""
    directory = tmp_path_factory.mktemp("quality-model")
    Owl2ForConditionalGeneration.from_pretrained(GOLDENS / "published_settings").save_pretrained(directory)
    image_processor = Owl2ImageProcessorPil(size={"height": 56, "width": 56})
    Owl2Processor(image_processor, quality_tokenizer(), num_image_tokens=9).save_pretrained(directory)
    return directory
