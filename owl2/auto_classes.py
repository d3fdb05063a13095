"""Registration with the Auto classes of transformers, by which `from_pretrained` finds the model."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

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
from .processing import Owl2ImageProcessor, Owl2Processor


def register() -> None:
    """Makes the Auto classes of transformers know the model; doing it twice does no harm."""
    for config in (Owl2Config, Owl2VisionConfig, Owl2AbstractorConfig, Owl2TextConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(Owl2Config, Owl2Model, exist_ok=True)
    AutoModel.register(Owl2TextConfig, Owl2LanguageDecoder, exist_ok=True)
    AutoModel.register(Owl2VisionConfig, Owl2VisionEncoder, exist_ok=True)
    AutoModelForImageTextToText.register(Owl2Config, Owl2ForConditionalGeneration, exist_ok=True)
    AutoModelForMultimodalLM.register(Owl2Config, Owl2ForConditionalGeneration, exist_ok=True)
    # `transformers serve` looks the class up by name here.
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[Owl2Config.model_type] = Owl2ForConditionalGeneration.__name__
    AutoProcessor.register(Owl2Config, Owl2Processor, exist_ok=True)
    try:
        AutoImageProcessor.register(Owl2Config, image_processor_classes={"pil": Owl2ImageProcessor}, exist_ok=True)
    except ImportError:  # transformers 5.17 has none without torchvision; Owl2Processor does not need it
        pass
