"""Images, videos and text to the inputs of the model."""

from .image_loading import load_image
from .image_processor import Owl2ImageProcessorPil
from .processor import Owl2Processor
from .video import load_video

Owl2ImageProcessor = Owl2ImageProcessorPil

__all__ = ["Owl2ImageProcessor", "Owl2ImageProcessorPil", "Owl2Processor", "load_image", "load_video"]
