"""COCO Caption on Karpathy's test images (specification, 1)."""

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

_PROMPTS = {"one_sentence": ONE_SENTENCE, "brief": "Describe the image briefly."}  # mPLUG-Owl2; lmms-eval


def _files(root: Path, split: str) -> list[Path]:
    return present_file(root / "coco" / "dataset_coco.json", root / "coco" / "coco_karpathy_test.json")


def _load(root: Path, split: str, prompt: str) -> list[Sample]:
    (file,) = _files(root, split)
    return caption_samples(file, _PROMPTS[prompt], root / "coco" / "val2014", _image)


def _image(row: Row) -> tuple[int, str]:
    image, folder, name = row.integer("cocoid"), row.text("filepath"), row.text("filename")
    if folder != "val2014" or name != f"COCO_val2014_{image:012d}.jpg":
        raise row.error(
            f"image {image} is {folder}/{name}, but Karpathy's test images are those of val2014 by their id"
        )
    return image, f"{folder}/{name}"


TASK = Task(
    name="coco_caption",
    title="COCO Caption",
    splits=("karpathy-test",),
    prompts=tuple(_PROMPTS),
    protocols=PROTOCOLS,
    on_request=ON_REQUEST,
    files=_files,
    load=_load,
    score=score_captions,
    primary_metric="CIDEr",
    download_hint="Put dataset_coco.json of Karpathy's caption_datasets.zip into coco/, and COCO's val2014 images into "
    "coco/val2014/.",
    decoding={"": DECODING},
    counts={"karpathy-test": 5000},
    paper_results={("paper_table_1", "coco"): "CIDEr", ("readme", "coco"): "CIDEr"},
    not_comparable={"one_sentence": "the paper's prompt is not published: this is that of its Flickr30K"},
)
