"""Section `data` of a recipe: the sources, and how samples are prepared."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from owl2.data.sources.scenes.world import DifficultyName, Kind, Split

from .base import NotNegative, Positive, Section, Share

EnglishKind = Literal["passages", "instructions", "facts"]

STAGE_FORMATS = {
    "pretrain": ("easy_vqa", "scenes", "jsonl", "parquet", "coco_captions", "webdataset", "image_folder"),
    "instruct": ("easy_vqa", "scenes", "english", "records", "mixture"),
}
"""The formats of sources that each stage learns from."""

_KEYS_OF_FORMATS = {
    "root": ("records", "jsonl", "parquet", "coco_captions"),
    "index": ("webdataset",),
    "image_field": ("jsonl", "parquet"),
    "caption_field": ("jsonl", "parquet", "webdataset", "image_folder"),
    "max_questions": ("easy_vqa",),
    "asked_of": ("easy_vqa",),
    "thinned": ("easy_vqa",),
    "texts": ("english",),
    "count": ("scenes",),
    "seed": ("scenes",),
    "difficulty": ("scenes",),
    "kinds": ("scenes",),
}
GENERATED = ("easy_vqa", "scenes", "english")
"""The formats of sources that need no path."""


class SourceSettings(Section):
    """One source of samples.

    Attributes:
        format: `easy_vqa` or `scenes` (captions in stage pretrain, conversations in stage instruct), `english` (short
            texts that come with owl2), `records` (conversations of LLaVA's or the chat-messages form), `mixture` (a
            YAML file of instruction sources), or image-caption pairs: `jsonl`, `parquet`, `coco_captions`,
            `webdataset`.
        path: The file or, for `webdataset`, the directory or address of the shards.
        root: Directory of the images; that of the file by default.
        weight: Share of the samples drawn from this source, relative to the other weights; by default its number of
            samples.
        index: Directory of the index of `webdataset`, if it is not beside the shards.
        image_field, caption_field: Names of the fields or columns of `jsonl` and `parquet`; of `webdataset`, the field
            of `.json` that holds the caption, instead of `.txt`.
        split: Split of easy-VQA or of scenes, which also have `held_out`: combinations that training never shows.
        max_questions: Most questions of a conversation about one image of easy-VQA.
        asked_of: Whether easy-VQA's questions are about the images, as by default, or about captions in their place.
        thinned: Whether every second of easy-VQA's questions that name another colour than the image's is left out.
        texts: Kinds of texts of `english`; passages and instructions by default.
        count: Number of scenes; 20,000 by default.
        seed: Seed of the scenes; that of the recipe by default.
        difficulty: Difficulty of the scenes; medium by default.
        kinds: Kinds of conversations about scenes; all by default. `[text]` needs no image, the others are about one.
    """

    format: Literal[
        "easy_vqa",
        "scenes",
        "english",
        "records",
        "mixture",
        "jsonl",
        "parquet",
        "coco_captions",
        "webdataset",
        "image_folder",
    ]
    path: str | None = None
    root: str | None = None
    weight: Annotated[float, Field(gt=0)] | None = None
    index: str | None = None
    image_field: str | None = None
    caption_field: str | None = None
    split: Split = "train"
    max_questions: Positive | None = None
    asked_of: Literal["images", "captions"] | None = None
    thinned: bool | None = None
    texts: Annotated[tuple[EnglishKind, ...], Field(min_length=1)] | None = None
    count: Positive | None = None
    seed: int | None = None
    difficulty: DifficultyName | None = None
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _path_of_a_file(self) -> Self:
        if (self.path is None) != (self.format in GENERATED):
            wanted = "takes no path" if self.path is not None else "needs a path"
            raise ValueError(f"a source of the format {self.format} {wanted}")
        for key, formats in _KEYS_OF_FORMATS.items():
            if getattr(self, key) is not None and self.format not in formats:
                raise ValueError(f"{key} is a key of {', '.join(formats)}, not of {self.format}")
        if self.split == "held_out" and self.format != "scenes":
            raise ValueError(f"only scenes have the split held_out, not {self.format}")
        return self


class Packing(Section):
    """Whole samples side by side in rows. It changes the speed of a step, not what it learns.

    Attributes:
        length: Largest number of tokens of a row; `data.max_length` by default.
        buffer: Samples of a step that are packed together; more of them leave less padding.
    """

    enabled: bool = False
    length: Positive | None = None
    buffer: Positive = 1024


class DataSettings(Section):
    """The sources and the preparation of their samples.

    Attributes:
        sources: Sources by name.
        image_size: Pixels of a side.
        aspect: How an image becomes square: "pad" for image quality; that of the checkpoint by default, "resize" in a
            new model.
        augment: `true` is a random resized crop and horizontal flip, as in BLIP-2 (section 4.1), only for pairs, since
            questions may be about what a crop cuts off; `flip` is the flip alone.
        keep_left_and_right: Do not flip an image whose caption says left or right.
        max_length: Tokens of a sample, visual rows included. Longer texts are cut at their end; a sample whose images
            or whose answer would be lost is left out, and counted.
        last_answer_only: Only the last answer of a conversation is learnt; those before it are read.
        control_tokens: Meaning of a control token in a text, such as `</s>` or the HTML tag `<s>`: a reason to
            leave the sample out and count it (refuse), or its letters (text).
        keep_in_memory: Keep every encoded sample, pixels included, once it was read: for small data that is learnt from
            again and again. Each worker keeps its own.
        workers: Processes that prepare batches on each rank; 0 prepares them between the steps.
        bad_share: The run ends when more than this share of a source's samples, and at least 100, are broken.
        cache: Directory for the index of `records`; `cache` in the run directory by default.
    """

    sources: Annotated[dict[str, SourceSettings], Field(min_length=1)]
    image_size: Positive
    max_length: Positive
    aspect: Literal["resize", "pad", "crop"] | None = None
    augment: bool | Literal["flip"] = False
    keep_left_and_right: bool = False
    last_answer_only: bool = False
    control_tokens: Literal["refuse", "text"] = "refuse"
    packing: Packing = Packing()
    keep_in_memory: bool = False
    workers: NotNegative = 2
    bad_share: Share = 0.05
    cache: str | None = None

    @model_validator(mode="after")
    def _rows_hold_samples(self) -> Self:
        if self.packing.length is not None and self.packing.length < self.max_length:
            raise ValueError(f"packing.length {self.packing.length} is below max_length {self.max_length}")
        return self

    @model_validator(mode="after")
    def _is_augmented_after_reading(self) -> Self:
        if self.keep_in_memory and self.augment is True:
            raise ValueError("keep_in_memory keeps whole images, and augment=true crops another part each time")
        if self.keep_left_and_right and self.augment == "flip":
            raise ValueError("keep_left_and_right reads captions, which augment=flip does not: use augment=true")
        return self
