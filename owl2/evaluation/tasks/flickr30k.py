"""Flickr30K captions on Karpathy's 1,000 test images (specification, 1)."""

from pathlib import Path

from owl2.data.annotations import Row
from owl2.evaluation.task import Sample, Task
from owl2.evaluation.tasks.shared.captions import (
    DECODING,
    ON_REQUEST,
    ONE_SENTENCE,
    PROTOCOLS,
    caption_samples,
    present_file,
    score_captions,
)

_IMAGES = "flickr30k-images"


def _files(root: Path, split: str) -> list[Path]:
    folder = root / "flickr30k"
    return present_file(folder / "dataset_flickr30k.json", folder / "flickr30k_karpathy_test.json")


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    (file,) = _files(root, split)
    return caption_samples(file, ONE_SENTENCE, root / "flickr30k" / _IMAGES, _image)


def _image(row: Row) -> tuple[int, str]:
    return row.integer("imgid"), f"{_IMAGES}/{row.text('filename')}"


TASK = Task(
    name="flickr30k",
    title="Flickr30K",
    splits=("karpathy-test",),
    prompts=("one_sentence",),
    protocols=PROTOCOLS,
    on_request=ON_REQUEST,
    files=_files,
    load=_load,
    score=score_captions,
    primary_metric="CIDEr",
    download_hint="Put dataset_flickr30k.json of Karpathy's caption_datasets.zip into flickr30k/, and the images, "
    "which the authors of Flickr30K give out on request, into flickr30k/flickr30k-images/.",
    decoding={"": DECODING},
    counts={"karpathy-test": 1000},
    paper_results={("paper_table_1", "flickr30k"): "CIDEr", ("readme", "flickr30k"): "CIDEr"},
)
