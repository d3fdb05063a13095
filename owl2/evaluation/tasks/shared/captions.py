"""The common parts of COCO Caption and Flickr30K: Karpathy's test images, prompt, CIDEr (specification, 1)."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from owl2.data.annotations import Row, image_path, numbered, read_json
from owl2.evaluation.metrics import caption_scores, ptb_tokenize
from owl2.evaluation.metrics.captioning import BLEU_NAMES
from owl2.evaluation.task import Decoding, Prediction, Sample, Scores

ONE_SENTENCE = "Provide a one-sentence caption for the provided image."
DECODING = Decoding(max_new_tokens=60, min_new_tokens=8)
"""The decoding of the specification, 0.2."""

PROTOCOLS = ("coco_caption", "with_meteor")
ON_REQUEST = ("with_meteor",)
"""Protocols computed only on request: METEOR is a Java program (specification, 1: an optional extra)."""

_KARPATHY_SPLITS = ("train", "restval", "val", "test")
_MEASURES = ("CIDEr", *BLEU_NAMES, "ROUGE_L")


def present_file(*files: Path) -> list[Path]:
    """The first of these files that exists, or the first one if none does."""
    return [next((file for file in files if file.is_file()), files[0])]


def caption_samples(
    file: Path, prompt: str, images: Path, karpathy_image: Callable[[Row], tuple[int, str]]
) -> list[Sample]:
    """The test images of a file in Karpathy's form, or of one in COCO's form, which holds nothing else.

    Karpathy's: `images`, each with `split` and `sentences[].raw`. COCO's, which the scripts of mPLUG-Owl2 read:
    `images` of `id` and `image`, a path of which only the file name counts, and `annotations` of `image_id` and
    `caption`. The references are the captions as written.

    Args:
        images: The folder of a file in COCO's form.
        karpathy_image: The id, and the path below the folder above `images`, of an image in Karpathy's form.

    Raises:
        ValueError: A broken record, by file and number; an image without captions, or captions without an image.
    """
    contents = Row(read_json(file), str(file))
    if "annotations" in contents.values:
        found = _coco_form(contents, images)
    else:
        found = _karpathy_form(numbered(contents.items("images"), file), images.parent, karpathy_image)
    return [Sample(str(image), prompt, references, images=(path,)) for image, references, path in found]


def _karpathy_form(
    rows: Iterator[Row], root: Path, image_of: Callable[[Row], tuple[int, str]]
) -> Iterator[tuple[int, list[str], Path]]:
    for row in rows:
        split = row.text("split")
        if split not in _KARPATHY_SPLITS:
            raise row.error(f"'split' is {split!r}, not one of {', '.join(_KARPATHY_SPLITS)}")
        if split == "test":
            references = [sentence.string("raw") for sentence in row.rows("sentences")]
            if not references:
                raise row.error("has no caption: 'sentences' is empty")
            image, name = image_of(row)
            yield image, references, Path(image_path(root, name, row))


def _coco_form(contents: Row, images: Path) -> Iterator[tuple[int, list[str], Path]]:
    captions: dict[int, list[str]] = {}
    for row in contents.rows("annotations"):
        captions.setdefault(row.integer("image_id"), []).append(row.string("caption"))
    for row in contents.rows("images"):
        image = row.integer("id")
        if image not in captions:
            raise row.error(f"image {image} has no caption among the annotations, or occurs twice")
        yield image, captions.pop(image), Path(image_path(images, PurePosixPath(row.text("image")).name, row))
    if captions:
        raise contents.error(f"{len(captions)} images have captions but no record, such as {min(captions)}")


def score_captions(records: Sequence[Prediction], protocol: str) -> Scores:
    """CIDEr, BLEU and ROUGE-L, with `with_meteor` METEOR too, and the CIDEr of each image: raw values, which are
    printed times 100.

    CIDEr weighs words by the images at hand: a score of some images is not comparable with that of all.

    Raises:
        ImportError: METEOR needs pycocoevalcap, which is not installed.
        ValueError: METEOR needs Java, which was not found, or its program has failed.
    """
    captions = {record.id: record.answer for record in records}
    wanted = (*_MEASURES, "METEOR") if protocol == "with_meteor" else _MEASURES
    try:
        measured = caption_scores({record.id: record.gold for record in records}, captions, wanted)
    except RuntimeError as error:
        raise ValueError(f"{error}. The protocol coco_caption does without METEOR") from error
    return Scores(
        parsed=ptb_tokenize(list(captions.values())),
        scores=[measured["CIDEr"].per_image[record.id] for record in records],
        summary={name: score.corpus for name, score in measured.items()},
    )
