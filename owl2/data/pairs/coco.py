"""COCO captions from the official `captions_train2014.json` (or 2017): every caption with its image is a pair.

The file is a JSON object: `images`, each with `id` and `file_name`, and `annotations`, each with `id`, `image_id` and
`caption` (cocodataset.org, data format). 414,113 captions of 82,783 images in train2014.
"""

import os
from collections.abc import Sequence

import numpy as np

from owl2.data.annotations import image_path, rows

from .record_files import BLOCK, PackedTexts, block_sizes, image_root, named_image
from .source import StoredPair, caption_text


class CocoCaptions:
    """Pairs of an official annotation file.

    Args:
        name: Name of the source.
        annotations: The JSON file.
        root: Folder of the image files, as `train2014`; the folder of the JSON file by default.

    Raises:
        ValueError: The file is not as described, by the number of the record.
    """

    def __init__(self, name: str, annotations: str | os.PathLike, root: str | os.PathLike | None = None) -> None:
        self.name, self.path = name, os.fspath(annotations)
        folder = os.path.dirname(os.path.abspath(annotations)) if root is None else root
        self.root = image_root(annotations, folder)
        files = {row.integer("id"): row.text("file_name") for row in rows(annotations, "images")}
        ids, names, captions = [], [], []
        for row in rows(annotations, "annotations"):
            image = row.integer("image_id")
            if image not in files:
                raise row.error(f"its image {image} is not among the images of the file")
            image_path(folder, files[image], row)
            ids.append(row.integer("id"))
            names.append(files[image])
            captions.append(row.string("caption"))
        self._ids = np.array(ids, dtype=np.int64)
        self._names, self._captions = PackedTexts(names), PackedTexts(captions)
        self.groups: Sequence[int] = block_sizes(len(ids))

    def read(self, group: int, index: int) -> StoredPair:
        number = group * BLOCK + index
        where = f"{self.path}, annotation {self._ids[number]}"
        caption = caption_text(self._captions[number], where)
        image = named_image(self.root, self._names[number], where)
        return StoredPair(str(self._ids[number]), image, caption, self.name)
