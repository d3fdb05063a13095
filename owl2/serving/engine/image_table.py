"""Images as virtual token ids, by which a scheduler that knows only token ids batches and shares image prompts.

Each encoded image has a slot of the table, and each of its Q + 1 rows an id above the vocabulary. Blocks of the prefix
cache are hashed from ids, so an id must mean the same pixels for as long as the cache may live: an evicted image leaves
its slot to another one, but never its ids. Shapes: N images, Q learnable queries, D hidden.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

LARGEST_ID = 2**31 - 1
"""The largest id: the manager keeps ids in 32 bits."""


class ImageTableFull(Exception):
    """Every slot holds an image of a request in flight, or the ids are used up."""


class ImageTable:
    """Encoded images by the hash of their pixels, the least recently used evicted first.

    Args:
        rows: Rows of an image, Q + 1.
        hidden_size: D.
        capacity: Most images that are kept.
        first_id: The first virtual id; all real ids lie below it.
    """

    def __init__(
        self,
        rows: int,
        hidden_size: int,
        capacity: int,
        first_id: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: the image table must hold at least one image")
        self.rows = rows
        self.capacity = capacity
        self.first_id = first_id
        self.embeddings = torch.zeros(capacity * rows, hidden_size, dtype=dtype, device=device)
        self.hits = self.misses = self.evictions = 0
        self._lock = threading.Lock()
        self._slots: OrderedDict[bytes, int] = OrderedDict()  # the least recently used first
        self._pins = [0] * capacity
        self._generations = [0] * capacity

    @property
    def bytes_in_use(self) -> int:
        return len(self._slots) * self.bytes_per_image

    @property
    def bytes_per_image(self) -> int:
        return self.rows * self.embeddings.shape[1] * self.embeddings.element_size()

    def acquire(
        self, pixel_values: torch.Tensor, encode: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[tuple[int, list[int]]]:
        """Slot and virtual ids of each image, which stay in the table until they are released.

        Args:
            pixel_values: [N, 3, H, W], as the model takes them: the key is the hash of pixels and processing.
            encode: Visual tokens [n, Q + 1, D] of those images [n, 3, H, W] that are not in the table yet.

        Raises:
            ImageTableFull: There is no slot left; nothing is kept.
        """
        keys = [_hash(image) for image in pixel_values]
        with self._lock:
            missing = [key for key in dict.fromkeys(keys) if key not in self._slots]
            self._pin([key for key in keys if key in self._slots])
        held = [key for key in keys if key not in missing]
        try:
            if missing:
                features = encode(torch.stack([pixel_values[keys.index(key)] for key in missing]))
                with self._lock:
                    for key, visual_tokens in zip(missing, features, strict=True):
                        count = keys.count(key)
                        self._insert(key, visual_tokens)
                        self._pin([key] * count)
                        held += [key] * count
        except BaseException:
            with self._lock:
                for key in held:
                    self._pins[self._slots[key]] -= 1
            raise
        with self._lock:
            self.hits += len(keys) - len(missing)
            self.misses += len(missing)
            return [(self._slots[key], self._ids(self._slots[key])) for key in keys]

    def release(self, slots: Sequence[int]) -> None:
        """Releases what `acquire` returned, as often as it was acquired."""
        with self._lock:
            for slot in slots:
                assert self._pins[slot] > 0, f"slot {slot} is released more often than it was acquired"
                self._pins[slot] -= 1

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """Visual tokens [..., D] of virtual ids [...]; any row for other ids."""
        return self.embeddings[(ids - self.first_id).clamp(min=0) % len(self.embeddings)]

    def _pin(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self._slots.move_to_end(key)
            self._pins[self._slots[key]] += 1

    def _insert(self, key: bytes, visual_tokens: torch.Tensor) -> None:
        if key in self._slots:  # another request brought the same image meanwhile
            return
        slot = self._free_slot()
        self.embeddings[slot * self.rows : (slot + 1) * self.rows] = visual_tokens
        self._slots[key] = slot

    def _free_slot(self) -> int:
        """An empty slot, or that of the least recently used image that no request holds, with ids of its own."""
        if len(self._slots) < self.capacity:
            return len(self._slots)  # a slot is never emptied but for another image
        key = next((key for key, slot in self._slots.items() if not self._pins[slot]), None)
        if key is None:
            raise ImageTableFull(f"all {self.capacity} images of the table belong to requests in flight")
        slot = self._slots[key]
        if self._first_id(slot, self._generations[slot] + 1) + self.rows > LARGEST_ID:
            raise ImageTableFull("the virtual ids of images are used up: restart the server")
        del self._slots[key]
        self._generations[slot] += 1
        self.evictions += 1
        return slot

    def _ids(self, slot: int) -> list[int]:
        first = self._first_id(slot, self._generations[slot])
        return list(range(first, first + self.rows))

    def _first_id(self, slot: int, generation: int) -> int:
        return self.first_id + (generation * self.capacity + slot) * self.rows


def _hash(image: torch.Tensor) -> bytes:
    contents = image.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{contents.dtype} {list(contents.shape)}".encode(), digest_size=32)
    digest.update(contents.view(torch.uint8).numpy().tobytes())
    return digest.digest()
