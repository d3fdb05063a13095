"""The size of a record, known without opening it, from which its work is estimated."""

from typing import NamedTuple


class RecordSize(NamedTuple):
    """The numbers of what a record holds.

    Attributes:
        text_bytes: Bytes of all its texts in UTF-8.
        images: Number of images.
        videos: Number of videos.
        answers: Number of turns that are learnt.
    """

    text_bytes: int
    images: int
    videos: int
    answers: int = 0

    def plus(self, other: "RecordSize") -> "RecordSize":
        return RecordSize(*(one + two for one, two in zip(self, other, strict=True)))

    @property
    def tokens(self) -> float:
        """An estimate: a token every four bytes of text, 65 an image (64 queries and an end), 8 images a video."""
        return self.text_bytes / 4 + 65 * (self.images + 8 * self.videos)
