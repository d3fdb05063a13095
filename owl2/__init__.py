"""owl2: mPLUG-Owl2, a multimodal language model with modality collaboration.

Importing it registers the model with the Auto classes of transformers.
"""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

if find_spec("torch") is not None:  # owl2.evaluation.metrics works without it
    from .auto_classes import register as _register
    from .modeling import (
        CheckpointError,
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

    _register()

__all__ = [
    "CheckpointError",
    "Owl2AbstractorConfig",
    "Owl2Config",
    "Owl2ForConditionalGeneration",
    "Owl2ImageProcessor",
    "Owl2LanguageDecoder",
    "Owl2Model",
    "Owl2Processor",
    "Owl2TextConfig",
    "Owl2VisionConfig",
    "Owl2VisionEncoder",
]

try:
    __version__ = version("owl2")
except PackageNotFoundError:  # a source tree on the path
    __version__ = "0.0.0"
