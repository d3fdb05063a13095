"""Merges an adapter folder and its base model into a plain model, with one shard of it in memory at a time."""

import copy
import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from owl2.checkpoints.adapter_folder import ADAPTER, CONFIG, PREFIX, WEIGHTS, AdapterFolder
from owl2.checkpoints.adapters import inject_adapter
from owl2.checkpoints.convert import POSITIONS, StoredModel, identities, open_model, write_model
from owl2.checkpoints.inspect import checkpoint_layout
from owl2.checkpoints.lazy_tensors import LazyState, LazyTensor, in_precision, lazy_official, lazy_owl2, stored_tensors
from owl2.checkpoints.loading import processor_of_adapter
from owl2.checkpoints.official_adapter import OfficialAdapter, is_official_adapter, read_official_adapter
from owl2.checkpoints.shards import Report
from owl2.processing import Owl2Processor


def merge_lora(adapter: str | Path, base: str | Path, out: str | Path, report: Report | None = None) -> Path:
    """Writes the model that `adapter` makes of `base`, with its processor, in our layout and the base's precision.

    The adapter is one of ours or of the official code (`owl2.checkpoints.official_adapter`), which needs no PEFT. The
    processor is that of the adapter folder, if it holds one: it knows the resolution of the training. An interrupted
    merge is continued by the same call.

    Args:
        base: Directory of the model that the adapter was trained on, in our or the official layout; of a model that
            was trained in 4 bits, the one in full precision.
        report: Called after each shard.

    Returns:
        The directory `out`.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: The adapter does not fit the base, or `out` holds something.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: choose another directory for the merged model")
    checkpoint_layout(base)
    if is_official_adapter(adapter):
        model, processor = _with_official_adapter(adapter, base), processor_of_adapter(adapter, base)
    else:
        model = with_adapter(AdapterFolder(adapter), open_model(base))
        with_processor = (Path(adapter) / "processor_config.json").is_file()
        processor = Owl2Processor.from_pretrained(adapter if with_processor else base)
        size = processor.image_processor.size["height"]
        if size != model.config.vision_config.image_size:
            model = model.with_image_size(size)
    write_model(model, out, finish=processor.save_pretrained, report=report)
    return out


def with_adapter(folder: AdapterFolder, base: StoredModel) -> StoredModel:
    """A stored model with an adapter of ours merged into it, at the resolution that the adapter learnt at.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: The folder is not one of LoRA, is damaged, or does not fit the model.
    """
    learnt = stored_tensors([folder.path / WEIGHTS])
    learnt = {name.removeprefix(PREFIX): tensor for name, tensor in learnt.items()}
    dtype = next(iter(base.tensors.values())).like.dtype
    model = base.meta_model().to(dtype)
    inject_adapter(model, folder.config())
    folder.check_fit(model)
    vision = base.config.vision_config
    if POSITIONS in learnt and learnt[POSITIONS].like.shape != base.tensors[POSITIONS].like.shape:
        grid = round((len(learnt[POSITIONS].like) - int(vision.use_cls_token)) ** 0.5)
        base = base.with_image_size(grid * vision.patch_size)
    from peft.tuners.lora import LoraLayer

    tensors: LazyState = dict(base.tensors)
    for name, tensor in learnt.items():
        if ".lora_" not in name:
            tensors |= in_precision({name.replace(".base_layer.", "."): tensor}, dtype)
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            matrices = {
                part.removeprefix(f"{name}."): learnt[part] for part in learnt if part.startswith(f"{name}.lora_")
            }
            merged = _MergedLayer(module, {own: tensors[f"{name}.{own}"] for own in _parameters(module)}, matrices)
            for own, tensor in merged.own.items():
                tensors[f"{name}.{own}"] = tensor._replace(read=partial(merged.read, own))
    made_of = identities([folder.path / CONFIG, folder.path / WEIGHTS])
    return base._replace(tensors=tensors, made_of=[*base.made_of, *made_of])


class _MergedLayer(NamedTuple):
    """A layer with adapters, which PEFT merges when one of its parameters is read.

    Attributes:
        layer: PEFT's layer, on the device "meta".
        own: Parameters of the layer below.
        matrices: Parameters of the adapter, by their names in the folder.
    """

    layer: Any
    own: LazyState
    matrices: LazyState

    @torch.no_grad()
    def read(self, name: str) -> torch.Tensor:
        layer = copy.deepcopy(self.layer)
        places = layer.state_dict()
        given = {f"base_layer.{own}": tensor for own, tensor in self.own.items()}
        given |= {re.sub(r"^(lora_\w+)", rf"\1.{ADAPTER}", part): tensor for part, tensor in self.matrices.items()}
        values = {part: tensor.read().to(places[part].dtype) for part, tensor in given.items()}
        layer.load_state_dict(values, assign=True)
        layer.merge(safe_merge=True)  # raises where the sum is not finite
        return layer.get_base_layer().get_parameter(name).detach()


def _parameters(layer: Any) -> list[str]:
    return [name for name, _ in layer.get_base_layer().named_parameters()]


def _with_official_adapter(directory: str | Path, base: str | Path) -> StoredModel:
    """A stored model with an adapter of the official code merged into it.

    Raises:
        CheckpointError: The adapter does not fit the base.
    """
    adapter, model = read_official_adapter(directory), open_model(base)
    official = lazy_official(model.tensors, model.config)
    if model.config.tie_word_embeddings:
        official["lm_head.weight"] = official["model.embed_tokens.weight"]
    adapter.require_fit({name: tensor.like.shape for name, tensor in official.items()}, directory, base)
    changed = {
        name: tensor._replace(read=partial(_changed, adapter, name, tensor)) for name, tensor in official.items()
    }
    tensors = {name: tensor for name, tensor in lazy_owl2(changed, model.config).items() if name in model.tensors}
    files = [path for path in sorted(Path(directory).expanduser().iterdir()) if path.is_file()]
    return model._replace(tensors=tensors, made_of=[*model.made_of, *identities(files)])


def _changed(adapter: OfficialAdapter, name: str, tensor: LazyTensor) -> torch.Tensor:
    return adapter.changed(name, tensor.read())
