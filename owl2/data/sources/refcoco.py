"""RefCOCO: the references as JSON or parquet, `instances.json`, and images in `train2014/`.

The references are published only as a pickle, `refs(unc).p`, which could run any code and is never opened here. What is
read is the same list of records in a JSON file or a parquet table with those columns; docs/train/data-sources.md says
how to make one. An object has several phrases (42,404 objects and 120,624 phrases of 16,994 images in split `train`):
record k of an image asks about the k-th phrase of each of its objects, so that no earlier question gives it away.
That is more than Table 8's 30K, whose choice the paper does not give. `regions.py` has the wording and the form of a
box.
"""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from owl2.data.annotations import AnyPath, Row, image_path, numbered, read_json, rows
from owl2.data.records import Conversation

from .regions import MAX_REGIONS, Region, SizedImage, normalized_box, region_conversation


def conversations(
    references: AnyPath, instances: AnyPath, images: AnyPath, seed: int = 0, epoch: int = 0
) -> Iterator[Conversation]:
    """One or more records an image, of at most `MAX_REGIONS` objects.

    Args:
        references: `.json` or `.parquet`, each record with `ref_id`, `ann_id`, `image_id`, `split`, `sentences[].sent`.
        instances: `instances.json` of RefCOCO: `images` and `annotations` in the form of COCO, `bbox` = [x, y, width,
            height] in pixels.
        images: The folder that holds `train2014/`.

    Raises:
        ValueError: A broken record, by file and number; a pickle.
        ImportError: Parquet without pyarrow.
    """
    contents = Row(read_json(instances), str(instances))
    sizes = _images(contents, images)
    boxes = _boxes(contents, sizes)
    objects: dict[int, list[list[Region]]] = {}
    for row in _reference_rows(references):
        if row.text("split") == "train":
            image, annotation = row.integer("image_id"), row.integer("ann_id")
            if (image, annotation) not in boxes:
                raise row.error(f"annotation {annotation} of image {image} is not in {instances}")
            phrases = [sentence.text("sent") for sentence in row.rows("sentences")]
            regions = [Region(boxes[image, annotation], phrase) for phrase in phrases]
            objects.setdefault(image, []).append(regions)
    for image, found in objects.items():
        for round_, regions_or_none in enumerate(zip_longest(*found)):
            regions = [region for region in regions_or_none if region is not None]
            for start in range(0, len(regions), MAX_REGIONS):
                name = f"refcoco-{image}-{round_}-{start}"
                part = regions[start : start + MAX_REGIONS]
                yield region_conversation(name, sizes[image].file, part, seed, epoch)


def _images(instances: Row, images: AnyPath) -> dict[int, SizedImage]:
    found = {}
    for row in numbered(instances.items("images"), f"{instances.where}, images"):
        file = image_path(images, f"train2014/{row.text('file_name')}", row)
        found[row.integer("id")] = SizedImage.of(file, row)
    return found


def _boxes(instances: Row, sizes: dict[int, SizedImage]) -> dict[tuple[int, int], tuple[float, float, float, float]]:
    """The box of each (image, annotation)."""
    found = {}
    for row in numbered(instances.items("annotations"), f"{instances.where}, annotations"):
        image = row.integer("image_id")
        if image not in sizes:
            raise row.error(f"image {image} is not among the images of the file")
        x, y, width, height = row.numbers("bbox", 4)
        box = normalized_box(x, y, width, height, sizes[image].width, sizes[image].height)
        if box is None:
            raise row.error(
                f"the box {[x, y, width, height]} is outside the image of {sizes[image].width} x {sizes[image].height}"
            )
        found[image, row.integer("id")] = box
    return found


def _reference_rows(path: AnyPath) -> Iterator[Row]:
    ending = Path(path).suffix
    if ending == ".parquet":
        yield from numbered(_parquet(path), path)
    elif ending == ".json":
        yield from rows(path)
    else:
        raise ValueError(
            f"{path} is neither .json nor .parquet. A pickle can run any code and is never opened: convert refs(unc).p "
            "as docs/train/data-sources.md describes"
        )


def _parquet(path: AnyPath) -> Iterator[dict[str, object]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"pyarrow is needed to read {path}: pip install 'owl2[train]'") from error
    columns = ["ann_id", "image_id", "split", "sentences"]
    with pyarrow.parquet.ParquetFile(path) as file:
        missing = [column for column in columns if column not in file.schema_arrow.names]
        if missing:
            raise ValueError(f"{path} has no column {missing}; it has {file.schema_arrow.names}")
        for batch in file.iter_batches(columns=columns):
            yield from batch.to_pylist()
