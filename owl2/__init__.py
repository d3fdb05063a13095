"""owl2: mPLUG-Owl2, a multimodal language model with modality collaboration. Importing it registers the Auto classes."""

from importlib.metadata import PackageNotFoundError, version

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from .modeling import (
    Owl2AbstractorConfig,
    Owl2Config,
    Owl2ForConditionalGeneration,
    Owl2LanguageDecoder,
    Owl2Model,
    Owl2TextConfig,
    Owl2VisionConfig,
    Owl2VisionEncoder,
)

try:
    __version__ = version("owl2")
except PackageNotFoundError:  # a source tree on the path
    __version__ = "0.0.0"

for _config in (Owl2Config, Owl2VisionConfig, Owl2AbstractorConfig, Owl2TextConfig):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
AutoModel.register(Owl2Config, Owl2Model, exist_ok=True)
AutoModel.register(Owl2TextConfig, Owl2LanguageDecoder, exist_ok=True)
AutoModel.register(Owl2VisionConfig, Owl2VisionEncoder, exist_ok=True)
AutoModelForImageTextToText.register(Owl2Config, Owl2ForConditionalGeneration, exist_ok=True)
