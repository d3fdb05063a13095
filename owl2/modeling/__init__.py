"""The model: section 3 of the paper, one file a part."""

from .configuration import Owl2AbstractorConfig, Owl2Config, Owl2TextConfig, Owl2VisionConfig
from .errors import CheckpointError
from .language_decoder import Owl2LanguageDecoder
from .mlp_connector import Owl2MLPConnector
from .owl2 import Owl2ForConditionalGeneration, Owl2Model
from .vision_encoder import Owl2VisionEncoder
from .visual_abstractor import Owl2VisualAbstractor

__all__ = [
    "CheckpointError",
    "Owl2AbstractorConfig",
    "Owl2Config",
    "Owl2ForConditionalGeneration",
    "Owl2LanguageDecoder",
    "Owl2MLPConnector",
    "Owl2Model",
    "Owl2TextConfig",
    "Owl2VisionConfig",
    "Owl2VisionEncoder",
    "Owl2VisualAbstractor",
]
