"""Images, videos and text to the inputs of the model."""

from typing import TYPE_CHECKING

from owl2.lazy import lazy_names

if TYPE_CHECKING:
    from .image_loading import load_image
    from .image_processor import Owl2ImageProcessor, Owl2ImageProcessorPil
    from .processor import Owl2Processor
    from .video import load_video

__all__ = ["Owl2ImageProcessor", "Owl2ImageProcessorPil", "Owl2Processor", "load_image", "load_video"]

# Images are checked where nobody waits for torch.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Owl2ImageProcessor": ".image_processor",
        "Owl2ImageProcessorPil": ".image_processor",
        "Owl2Processor": ".processor",
        "load_image": ".image_loading",
        "load_video": ".video",
    },
)
