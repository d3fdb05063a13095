"""Pairs in JSON lines or a JSON list: `{"image": "images/1.jpg", "caption": "A circle.", "id": "1"}`.

The image is a path below the root, or a data URL; the id may be absent. The caption may also be the only answer of a
conversation, as in the list of 558,000 pairs on which LLaVA is pretrained. The file is mapped into memory.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from owl2.data.formats.reading import read_record
from owl2.data.formats.record_file import find_records
from owl2.data.formats.text_files import map_text
from owl2.data.skipped import Fault, InvalidSample
from owl2.files import parse_json
from owl2.processing.image_loading import check_local_path

from .record_files import BLOCK, block_sizes, image_root, named_image
from .source import StoredPair, caption_text


class PairLines:
    """Pairs of a file of JSON lines or a JSON list.

    Args:
        name: Name of the source.
        path: The file.
        root: Folder of the images; the folder of the file by default.
        image_field, caption_field: Fields of a record that hold the pair.

    Raises:
        ValueError: The file is missing or empty.
    """

    def __init__(
        self,
        name: str,
        path: str | os.PathLike,
        root: str | os.PathLike | None = None,
        image_field: str = "image",
        caption_field: str = "caption",
    ) -> None:
        self.name, self.image_field, self.caption_field = name, image_field, caption_field
        self._arguments = (name, path, root, image_field, caption_field)
        self.path = Path(check_local_path(path, "file of pairs"))
        self.root = image_root(self.path, root)
        self._buffer = map_text(self.path, "file of pairs")
        self._spans = find_records(self._buffer, self.path, (image_field, caption_field))
        self.groups: Sequence[int] = block_sizes(len(self._spans.starts))

    def __reduce__(self) -> tuple[Any, ...]:
        return PairLines, self._arguments

    def read(self, group: int, index: int) -> StoredPair:
        number = group * BLOCK + index
        line = int(self._spans.lines[number])
        where = f"{self.path}, line {line}"
        record = self._record(number, where)
        caption = caption_text(self._caption(record, where), where)
        image = named_image(self.root, record.get(self.image_field), where)
        return StoredPair(str(record.get("id", line)), image, caption, self.name)

    def _caption(self, record: dict[str, Any], where: str) -> Any:
        if self.caption_field in record or "conversations" not in record:
            return record.get(self.caption_field)
        draft = read_record(record, where)
        answers = [message for message in draft.messages if message["role"] == "assistant"]
        if len(answers) != 1 or any(part["type"] != "text" for part in answers[0]["content"]):
            text = (
                f"{where}: a conversation of {len(answers)} answers is not a caption: instruction tuning learns from it"
            )
            raise InvalidSample(Fault.MISSING_CAPTION, text)
        return "".join(part["text"] for part in answers[0]["content"])

    def _record(self, number: int, where: str) -> dict[str, Any]:
        octets = self._buffer[self._spans.starts[number] : self._spans.ends[number]]
        try:
            record = parse_json(octets.decode())
        except UnicodeDecodeError as error:
            raise InvalidSample(Fault.INVALID_CAPTION, f"{where}: not UTF-8 at byte {error.start}") from error
        except ValueError as error:
            raise InvalidSample(Fault.UNREADABLE, f"{where}: not valid JSON: {error}") from error
        if not isinstance(record, dict):
            raise InvalidSample(Fault.UNREADABLE, f"{where}: a record is an object, this one is {record!r:.60}")
        return record
