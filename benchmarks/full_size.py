"""The published size on this machine: load, image encoding, prefill, decode and peak memory, by precision of weights.

A checkpoint of random weights in the official layout, `.bin` shards as the published one has them, is made first (no
download; it says how much disk it takes, and stays for the next time). Each precision is measured in a process of its
own, so that its peak memory is its own. One step of decoding reads every weight of the decoder and head once, so its
rate is also given as a share of the rate at which this machine reads memory, measured before and after in the same run.

int8 and int4 are weight only, by torchao. Run `python benchmarks/full_size.py --help`.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from common import add_output, settings_of, show
from torch import nn

from owl2.checkpoints.int8_products import use_int8_products
from owl2.environment import processor_name
from owl2.modeling import Owl2AbstractorConfig, Owl2Config, Owl2ForConditionalGeneration, Owl2TextConfig
from owl2.modeling import Owl2VisionConfig as VisionConfig
from owl2.modeling.official_checkpoint import fixed_tables, official_config, owl2_to_official

SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        "vision": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2),
        "abstractor": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2),
        "text": dict(hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4),
    },
    "300m": {
        "vision": dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8),
        "abstractor": dict(hidden_size=512, intermediate_size=1408, num_hidden_layers=3, num_attention_heads=8),
        "text": dict(hidden_size=1024, intermediate_size=2752, num_hidden_layers=14, num_attention_heads=16),
    },
    "full": {"vision": {}, "abstractor": {}, "text": {}},
}
"""`full` has the 8,197,859,328 parameters of the published model; the others are to try the script with."""

WEIGHTS = ("bf16", "int8", "int4")
SHARDS = 9
PROMPT = 48  # tokens of text beside those of the image
GIGABYTE = 10**9


def config_of(size: str) -> Owl2Config:
    parts = SIZES[size]
    return Owl2Config(
        vision_config=VisionConfig(**parts["vision"]),
        abstractor_config=Owl2AbstractorConfig(**parts["abstractor"]),
        text_config=Owl2TextConfig(**parts["text"]),
    )


def make_checkpoint(directory: Path, size: str) -> None:
    """Writes random weights in bfloat16, one shard in memory at a time; what is there already stays.

    Raises:
        SystemExit: The disk has no room.
    """
    index = directory / "pytorch_model.bin.index.json"
    if index.is_file():
        return
    config = config_of(size)
    with torch.device("meta"):
        official = owl2_to_official(Owl2ForConditionalGeneration(config).state_dict(), config, tables=False)
    needed = 2 * sum(tensor.numel() for tensor in official.values())
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    print(
        f"{directory} takes {needed / GIGABYTE:.2f} GB of disk, of which {free / GIGABYTE:.1f} GB are free.", flush=True
    )
    if needed > 0.95 * free:
        raise SystemExit("That is too little room: choose another --checkpoint, or a smaller --size.")
    weight_map: dict[str, str] = {}
    shards = list(in_shards(list(official), [tensor.numel() for tensor in official.values()]))
    for number, names in enumerate(shards, 1):
        file = f"pytorch_model-{number:05d}-of-{len(shards):05d}.bin"
        tensors = {name: random_weight(name, official[name].shape) for name in names}
        if number == len(shards):
            tensors |= fixed_tables(config)
        torch.save(tensors, directory / file)
        weight_map |= dict.fromkeys(tensors, file)
    (directory / "config.json").write_text(json.dumps(official_config(config, torch.bfloat16), indent=2))
    index.write_text(json.dumps({"metadata": {"total_size": needed}, "weight_map": weight_map}))


def in_shards(names: list[str], sizes: list[int]) -> Iterator[list[str]]:
    """The names in `SHARDS` runs of about equal size."""
    total, filled, shard = sum(sizes), 0, []
    for name, size in zip(names, sizes, strict=True):
        if shard and filled * SHARDS // total < min((filled + size) * SHARDS // total, SHARDS - 1):
            yield shard
            shard = []
        shard.append(name)
        filled += size
    yield shard


def random_weight(name: str, shape: torch.Size) -> torch.Tensor:
    """Small values around 0, and 1 for norms, so that activations stay finite at any depth."""
    if name.endswith("weight") and len(shape) == 1 or ".multiway." in name and len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02)


def read_bandwidth(megabytes: int = 512, repeats: int = 5) -> float:
    """Bytes a second at which all threads sum numbers that do not fit the caches; the best of some."""
    numbers = torch.ones(megabytes * 2**20 // 4)
    seconds = min(timed(lambda: float(numbers.sum())) for _ in range(repeats))
    return numbers.numel() * 4 / seconds


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def quantize(model: Owl2ForConditionalGeneration, weights: str) -> None:
    """Weight-only int8 or int4 of the linears of the decoder and the head, in place, by torchao."""
    if weights == "bf16":
        return
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig  # the only int4 of a CPU
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    settings: Any = Int8WeightOnlyConfig()
    if weights == "int4":
        settings = PrototypeInt4WeightOnlyConfig(group_size=32, set_inductor_config=False)
    for part in (model.model.language_model, model.lm_head):
        quantize_(part, settings, filter_fn=lambda module, name: isinstance(module, nn.Linear))
    use_int8_products(model)


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the parameters as they are stored, packed ones and their scales included."""
    return sum(stored_bytes(parameter.data) for parameter in module.parameters())


def stored_bytes(tensor: torch.Tensor) -> int:
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return sum(stored_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()


def measure(arguments: argparse.Namespace, weights: str) -> dict[str, Any]:
    """Everything about one precision, in this process."""
    torch.set_num_threads(arguments.threads)
    before = read_bandwidth()
    start = time.perf_counter()
    model = Owl2ForConditionalGeneration.from_pretrained(arguments.checkpoint, dtype=torch.bfloat16).eval()
    load = time.perf_counter() - start
    quantizing = timed(lambda: quantize(model, weights))
    config = model.config
    side, rows = config.vision_config.image_size, config.tokens_per_image
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, side, side, generator=generator, dtype=torch.float32).bfloat16()
    text = torch.randint(3, config.text_config.vocab_size, (1, PROMPT), generator=generator)
    image = torch.full((1, rows), config.image_token_id)
    ids = torch.cat([image, text], dim=1)
    with torch.no_grad():
        encode = statistics.median(timed(lambda: model.model.encode_images(pixels)) for _ in range(arguments.repeats))
        first = [timed(lambda: model(ids, pixel_values=pixels, logits_to_keep=1)) for _ in range(arguments.repeats)]
        decode = decoding_seconds(model, ids, pixels, arguments.tokens)
    # A step reads each weight of the text half once, and of the embeddings one row.
    decoder = model.model.language_model
    read = (
        weight_bytes(decoder) - weight_bytes(decoder.embed_tokens) - vision_bytes(decoder) + weight_bytes(model.lm_head)
    )
    bandwidth = statistics.mean([before, read_bandwidth()])
    return {
        "weights": weights,
        "load_seconds": load,
        "quantize_seconds": quantizing,
        "encode_image_seconds": encode,
        "prefill_seconds": statistics.median(first) - encode,
        "prompt_tokens": ids.shape[1],
        "decode_seconds": decode,
        "bytes_read_a_token": read,
        "read_bandwidth": bandwidth,
        "share_of_bandwidth": read / decode / bandwidth,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def vision_bytes(decoder: nn.Module) -> int:
    return sum(stored_bytes(parameter.data) for name, parameter in decoder.named_parameters() if "vision_" in name)


def decoding_seconds(
    model: Owl2ForConditionalGeneration, ids: torch.Tensor, pixels: torch.Tensor, tokens: int
) -> float:
    """Median seconds of one token after the prompt."""
    output = model(ids, pixel_values=pixels, use_cache=True, logits_to_keep=1)
    seconds = []
    for _ in range(tokens):
        token = output.logits[:, -1:].argmax(-1)
        start = time.perf_counter()
        output = model(token, past_key_values=output.past_key_values, use_cache=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measured_apart(arguments: argparse.Namespace, weights: str) -> dict[str, Any]:
    """`measure` in a new process; why it failed, if it did."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(measure, arguments, weights).result()
        except (ImportError, RuntimeError, NotImplementedError, ValueError) as error:
            return {"weights": weights, "failed": str(error).splitlines()[0]}


def table(report: dict[str, Any]) -> str:
    """The results for a terminal."""
    where, settings = report["environment"], report["settings"]
    lines = [
        f"{where['device']}, {settings['threads']} thread(s), torch {where['torch']}; size {settings['size']}, "
        f"{report['parameters']:,} parameters",
        f"{'':5} {'load':>8} {'image':>9} {'prefill':>9} {'a token':>9} {'read':>9} {'memory':>11} {'share':>6} "
        f"{'peak':>9}",
    ]
    for row in report["results"]:
        if "failed" in row:
            lines.append(f"{row['weights']:5} {row['failed']}")
            continue
        lines.append(
            f"{row['weights']:5} {row['load_seconds']:6.1f} s {row['encode_image_seconds']:7.2f} s "
            f"{row['prefill_seconds']:7.2f} s {row['decode_seconds'] * 1e3:6.1f} ms "
            f"{row['bytes_read_a_token'] / GIGABYTE:6.2f} GB {row['read_bandwidth'] / GIGABYTE:6.1f} GB/s "
            f"{row['share_of_bandwidth']:6.0%} {row['peak_bytes'] / GIGABYTE:6.2f} GB"
        )
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--checkpoint", type=Path, required=True, help="where the random checkpoint is, or will be")
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3, help="of image encoding and prefill")
    parser.add_argument("--tokens", type=int, default=16, help="that are decoded")
    add_output(parser, has_table=True)
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    make_checkpoint(arguments.checkpoint, arguments.size)
    with torch.device("meta"):
        parameters = sum(each.numel() for each in Owl2ForConditionalGeneration(config_of(arguments.size)).parameters())
    environment = {
        "device": processor_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
    }
    settings = {name: value for name, value in settings_of(arguments).items() if name != "checkpoint"}
    results = [measured_apart(arguments, weights) for weights in arguments.weights]
    report = {"environment": environment, "settings": settings, "parameters": parameters, "results": results}
    show(report, arguments, table(report))


if __name__ == "__main__":
    main()
