"""Images and videos of requests to vLLM, read and limited as in `owl2 serve`.

vLLM's own connector fetches any address, reads every format of Pillow, and takes other frames of a video.
"""

import asyncio
from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media import MediaConnector
from vllm.multimodal.media.connector import global_thread_pool

from owl2.serving.engine.errors import InvalidRequest
from owl2.serving.fetching import Fetcher
from owl2.serving.openai_api.media import contents_of_data_url, decode_image, decode_video
from owl2.serving.settings import RequestLimits

from .gate import shared_settings

PARAM = "messages"

Result = TypeVar("Result")


class Owl2MediaConnector(MediaConnector):
    """Reads the addresses in a request under `VLLM_MEDIA_CONNECTOR=owl2`.

    Args:
        media_io_kwargs: `num_frames` of videos.
        others: Arguments of vLLM's own connector; the settings say which hosts are allowed.
    """

    def __init__(self, media_io_kwargs: dict[str, dict[str, Any]] | None = None, **others: Any) -> None:
        super().__init__(media_io_kwargs)
        self.limits = shared_settings().limits
        self._number = 0

    def fetch_image(self, image_url: str, **others: Any) -> Image.Image:
        """One image as 8-bit RGB.

        Raises:
            VLLMValidationError: As `decode_image`, `contents_of_data_url` and `Fetcher.fetch`.
        """
        return _refused_as_vllm_does(self._reading_image(image_url))

    async def fetch_image_async(self, image_url: str, **others: Any) -> Image.Image:
        return await _in_thread(self._reading_image(image_url))

    def fetch_video(self, video_url: str, **others: Any) -> np.ndarray:
        """The frames that the model takes of a video, [T, H, W, 3] uint8.

        Raises:
            VLLMValidationError: As `decode_video` and `contents_of_data_url`.
        """
        return _refused_as_vllm_does(self._reading_video(video_url))

    async def fetch_video_async(self, video_url: str, **others: Any) -> np.ndarray:
        return await _in_thread(self._reading_video(video_url))

    def fetch_audio(self, audio_url: str) -> Any:
        raise VLLMValidationError("mPLUG-Owl2 takes text, images and videos, no audio", parameter="messages")

    async def fetch_audio_async(self, audio_url: str) -> Any:
        return self.fetch_audio(audio_url)

    def _reading_image(self, url: str) -> Callable[[], Image.Image]:
        self._number += 1  # of the image in its message, for the errors
        return partial(_read_image, url, self.limits, self._number)

    def _reading_video(self, url: str) -> Callable[[], np.ndarray]:
        return partial(_read_video, url, self.limits, self.media_io_kwargs["video"]["num_frames"])


@cache
def _fetcher() -> Fetcher:
    return Fetcher(shared_settings().fetch)


def _read_image(url: str, limits: RequestLimits, number: int) -> Image.Image:
    is_address = url.startswith(("http://", "https://"))
    contents = _fetcher().fetch(url, PARAM) if is_address else contents_of_data_url(url, "image", PARAM)
    return decode_image(contents, limits, number, PARAM)


def _read_video(url: str, limits: RequestLimits, num_frames: int) -> np.ndarray:
    frames = decode_video(contents_of_data_url(url, "video", PARAM), limits, num_frames, PARAM)
    return np.stack([np.asarray(frame) for frame in frames])


def _refused_as_vllm_does(read: Callable[[], Result]) -> Result:
    """Turns errors that a client can correct into vLLM's error, which has status 400."""
    try:
        return read()
    except InvalidRequest as error:
        raise VLLMValidationError(str(error), parameter=error.param) from error


async def _in_thread(read: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(global_thread_pool, _refused_as_vllm_does, read)
