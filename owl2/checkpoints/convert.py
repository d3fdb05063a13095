"""A stored model in either layout to a new folder in either layout, with one shard of it in memory at a time."""

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from transformers import GenerationConfig

from owl2.files import write_whole
from owl2.modeling import CheckpointError, Owl2Config, Owl2ForConditionalGeneration
from owl2.modeling.official_checkpoint import official_config
from owl2.modeling.positions import interpolate_positions
from owl2.modeling.pretrained import read_generation_config
from owl2.modeling.stored_weights import refuse_far_larger, weight_files

from .inspect import checkpoint_layout
from .lazy_tensors import LazyState, LazyTensor, in_precision, lazy_official, lazy_owl2, mapped, stored_tensors
from .shards import SHARD_BYTES, Report, write_in_shards

Layout = Literal["owl2", "official"]

HEAD, EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"
POSITIONS = "model.vision_tower.position_embedding"


class StoredModel(NamedTuple):
    """A model whose weights are not in memory.

    Attributes:
        tensors: Its parameters by our names, without a tied head.
        made_of: Identifies the files that it is read from.
    """

    config: Owl2Config
    generation_config: GenerationConfig
    tensors: LazyState
    made_of: list[str]

    def with_image_size(self, size: int) -> "StoredModel":
        """The same model at another resolution, as `Owl2ForConditionalGeneration.set_image_size` makes it.

        Raises:
            ValueError: The size is not a multiple of the patches.
        """
        config = copy.deepcopy(self.config)
        vision = config.vision_config
        if size % vision.patch_size != 0:
            raise ValueError(f"image_size {size} is not a multiple of the patch size {vision.patch_size}")
        side, prefix = size // vision.patch_size, int(vision.use_cls_token)
        vision.image_size, vision.position_grid_size = size, side
        table = mapped(self.tensors[POSITIONS], lambda values: interpolate_positions(values, (side, side), prefix))
        return self._replace(config=config, tensors=self.tensors | {POSITIONS: table})

    def meta_model(self) -> Owl2ForConditionalGeneration:
        """The model without weights, on the device "meta"."""
        return meta_model(self.config)


def meta_model(config: Owl2Config) -> Owl2ForConditionalGeneration:
    """A model without weights, on the device "meta", with a configuration of its own."""
    with torch.device("meta"):
        return Owl2ForConditionalGeneration(copy.deepcopy(config))


def open_model(directory: str | Path, dtype: torch.dtype | None = None) -> StoredModel:
    """A model directory in our or the official layout, to be read tensor by tensor.

    Args:
        dtype: Precision of the weights; by default the stored one.

    Raises:
        ValueError: It is no model directory.
        CheckpointError: Its weights are not those of its configuration, or cannot be read.
    """
    layout = checkpoint_layout(directory)
    path = Path(directory).expanduser()
    if layout == "official adapter":
        raise ValueError(f"{directory} is an adapter: owl2 merge-lora makes a model of it and its base")
    config = Owl2Config.from_pretrained(path)
    files = weight_files(path)
    refuse_far_larger(path, config, Owl2ForConditionalGeneration)
    tensors = stored_tensors(files)
    if layout == "official":
        tensors = lazy_owl2(tensors, config)
    if config.tie_word_embeddings and HEAD in tensors:
        head = tensors.pop(HEAD)
        if EMBEDDING not in tensors or not torch.equal(head.read(), tensors[EMBEDDING].read()):
            raise CheckpointError(
                f"{directory}: {HEAD} differs from the embedding, but tie_word_embeddings in its config.json says that "
                "they are one"
            )
    require_weights_of(config, tensors, directory)
    if dtype is None:
        stored = next(tensor.like.dtype for tensor in tensors.values() if tensor.like.is_floating_point())
        dtype = config.dtype if isinstance(config.dtype, torch.dtype) else stored
    for part in (config, config.vision_config, config.abstractor_config, config.text_config):
        part.dtype = dtype  # as `from_pretrained` notes it
    generation = read_generation_config(path) or GenerationConfig.from_model_config(config)
    return StoredModel(config, generation, in_precision(tensors, dtype), identities(files))


def identities(files: Iterable[Path]) -> list[str]:
    """Path, size and time of change of files: work that began from other files is not continued."""
    return [f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]


def require_weights_of(config: Owl2Config, tensors: Mapping[str, LazyTensor], what: object) -> None:
    """Compares names and shapes with the model of a configuration, for which nothing is allocated.

    Raises:
        CheckpointError: They differ; the message lists how.
    """
    wanted = {name: tuple(parameter.shape) for name, parameter in meta_model(config).named_parameters()}
    found = {name: tuple(tensor.like.shape) for name, tensor in tensors.items()}
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not in the model" for name in found if name not in wanted]
    problems += [
        f"{name} is {list(found[name])}, in the model {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise CheckpointError(f"{what} does not fit its configuration: {'; '.join(problems[:4])}{more}")


def write_model(
    model: StoredModel,
    target: str | Path,
    layout: Layout = "owl2",
    *,
    finish: Callable[[Path], object] = lambda folder: None,
    shard_bytes: int = SHARD_BYTES,
    report: Report | None = None,
) -> None:
    """Writes a folder as `save_pretrained` and `save_official` do, shard by shard; see `write_in_shards`.

    Args:
        finish: Writes what else belongs into the folder (a processor).

    Raises:
        ValueError: There is no official layout of such a model; `target` is not empty.
    """
    dtype = next(iter(model.tensors.values())).like.dtype
    tensors = model.tensors
    fields = official_config(model.config, dtype) if layout == "official" else None
    if layout == "official":
        tensors = lazy_official(tensors, model.config)
        if model.config.tie_word_embeddings:  # the official code stores both
            tensors[HEAD] = tensors["model.embed_tokens.weight"]

    def finish_all(folder: Path) -> None:
        if fields is None:
            _write_config(model, folder, dtype)
        else:
            write_whole(folder / "config.json", json.dumps(fields, indent=2, sort_keys=True) + "\n")
        finish(folder)

    write_in_shards(
        tensors,
        Path(target).expanduser(),
        finish_all,
        made_of=[layout, *model.made_of],
        shard_bytes=shard_bytes,
        report=report,
    )


def convert(
    source: str | Path,
    target: str | Path,
    layout: Layout = "owl2",
    *,
    dtype: torch.dtype | None = None,
    finish: Callable[[Path], object] = lambda folder: None,
    shard_bytes: int = SHARD_BYTES,
    report: Report | None = None,
) -> None:
    """Writes a model directory in another layout or precision.

    Args:
        source: A model directory in our or the official layout.
        dtype: Precision of the weights; by default the stored one.
        finish, report: As in `write_model`.

    Raises:
        ValueError: As `open_model` and `write_model`.
    """
    write_model(open_model(source, dtype), target, layout, finish=finish, shard_bytes=shard_bytes, report=report)


def _write_config(model: StoredModel, folder: Path, dtype: torch.dtype) -> None:
    """What `save_pretrained` writes beside the weights."""
    config = copy.deepcopy(model.config)
    config.architectures = [Owl2ForConditionalGeneration.__name__]
    config.dtype = dtype
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
