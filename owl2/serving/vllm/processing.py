"""Images and videos in vLLM's terms: `<|image|>` becomes Q + 1 rows, `<|video|>` as many for each frame.

The pixels are prepared by owl2's processor, image by image, and the placeholders are replaced in token ids.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)

from owl2.checkpoints.loading import load_processor
from owl2.modeling import Owl2Config
from owl2.processing import Owl2Processor, load_image, load_video


class Owl2ProcessingInfo(BaseProcessingInfo):
    """Answers vLLM's questions about a model's inputs before there are any."""

    def get_hf_config(self) -> Owl2Config:
        return self.ctx.get_hf_config(Owl2Config)

    @cached_property
    def processor(self) -> Owl2Processor:
        # Not by vLLM's loader, which would hand its tokenizer to from_pretrained.
        return load_processor(self.ctx.model_config.model)

    def get_hf_processor(self, **kwargs: Any) -> Owl2Processor:
        return self.processor

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None, "video": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        rows = self.get_hf_config().tokens_per_image
        return {"image": rows, "video": rows * self.most_frames(seq_len)}

    def most_frames(self, seq_len: int) -> int:
        """The frames of one video: as many as the processor takes, but not more than fit."""
        return max(1, min(self.processor.num_frames, seq_len // self.get_hf_config().tokens_per_image))

    @cached_property
    def placeholder_ids(self) -> dict[str, int]:
        """The ids that stand for one item in a prompt; the tokenizer mode has both."""
        vocabulary = self.get_tokenizer().get_vocab()
        return {
            "image": vocabulary[self.processor.image_token],
            "video": vocabulary[self.processor.video_token],
        }


class Owl2DummyInputsBuilder(BaseDummyInputsBuilder[Owl2ProcessingInfo]):
    """Makes inputs of the largest size, by which vLLM measures memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        processor = self.info.processor
        return processor.image_token * mm_counts.get("image", 0) + processor.video_token * mm_counts.get("video", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        side = self.info.get_hf_config().vision_config.image_size
        image = Image.new("RGB", (side, side))
        video = np.zeros((self.info.most_frames(seq_len), side, side, 3), dtype=np.uint8)
        return {"image": [image] * mm_counts.get("image", 0), "video": [video] * mm_counts.get("video", 0)}


class Owl2MultiModalProcessor(BaseMultiModalProcessor[Owl2ProcessingInfo]):
    """Turns images and videos into tensors, and placeholders in a prompt into their rows."""

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        if hf_kwargs:
            raise VLLMValidationError(
                f"mPLUG-Owl2 takes no mm_processor_kwargs, but got {', '.join(hf_kwargs)}",
                parameter="mm_processor_kwargs",
            )
        processor, data = self.info.processor, {}
        if images := hf_data.get("images"):
            data["pixel_values"] = self._pixels([load_image(image) for image in images])
        if videos := hf_data.get("videos"):
            frames = [load_video(np.asarray(video), processor.num_frames) for video in videos]
            data["pixel_values_videos"] = torch.cat([self._pixels(each) for each in frames])
            data["num_frames"] = torch.tensor([len(each) for each in frames])
        return BatchFeature(data)

    def _pixels(self, images: list[Image.Image]) -> torch.Tensor:
        """The pixels [n, 3, H, W] of an item."""
        return torch.from_numpy(np.stack(self.info.processor.image_processor(images)["pixel_values"]))

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        num_frames = hf_inputs.get("num_frames", torch.empty(0, dtype=torch.long))
        return {
            "pixel_values": MultiModalFieldConfig.batched("image"),
            "pixel_values_videos": MultiModalFieldConfig.flat_from_sizes("video", num_frames),
            "num_frames": MultiModalFieldConfig.batched("video", keep_on_cpu=True),
        }

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        config = self.info.get_hf_config()
        # Any id of the vocabulary will do, since vLLM tells rows by their places; one outside of it, such as the
        # model's own image token, ends the engine where penalties and log-probabilities of the prompt look it up.
        rows = [config.text_config.pad_token_id or 0] * config.tokens_per_image

        def rows_of_video(index: int) -> list[int]:
            return rows * int(out_mm_kwargs["video"][index]["num_frames"].data)

        replacements = {"image": rows, "video": rows_of_video}
        return [
            PromptReplacement(kind, target=[token], replacement=replacements[kind])
            for kind, token in self.info.placeholder_ids.items()
        ]

    def _maybe_apply_prompt_updates(self, mm_items: MultiModalDataItems, mm_res: Any) -> Any:
        """Replaces each placeholder by its rows.

        Raises:
            VLLMValidationError: The numbers of images and videos differ from those of their placeholders.
        """
        given, found = mm_items.get_all_counts(), Counter(mm_res.prompt_ids)
        for kind, token in self.info.placeholder_ids.items():
            if given.get(kind, 0) != found[token]:
                raise VLLMValidationError(
                    f"the prompt has {found[token]} {kind} placeholders, but {given.get(kind, 0)} {kind}s are given",
                    parameter="prompt",
                )
        return super()._maybe_apply_prompt_updates(mm_items, mm_res)
