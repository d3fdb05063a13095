"""One run for the day that a GPU is at hand: is everything right on it, and how near to its limits.

On one card of 80 GB, in under 30 minutes, at the published size with random weights:

* `goldens`: the recorded outputs of the official code, in float32 and in bfloat16,
* `decode`: time to the first token, and decoding with a dynamic cache and with CUDA graphs over a static one: the same
  tokens, the time of each, and the share of the memory bandwidth that is measured in the same run,
* `training`: a step of stage 1, and of stage 2 with adapters (all of it does not fit 80 GB), with MFU and peak memory,
* `serving`: `owl2 serve` under load beside `generate`, its answers compared.

A part that fails is recorded and does not stop the others; the exit code is then 1. `--tiny` runs all of it at a size
for any machine: to try the script, not to measure. Run `python benchmarks/gpu_check.py --help`.
"""

import argparse
import gc
import re
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import serving
import torch
import train_step
from common import add_output, machine_facts, settings_of, show
from evaluation import words
from full_size import PROMPT, config_of, vision_bytes, weight_bytes
from transformers import CompileConfig

from owl2.checkpoints.small_language_model import train_tokenizer
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2ImageProcessor, Owl2Processor

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("goldens", "decode", "training", "serving")
LARGEST = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""Largest relative difference of logits, in the norm."""


def goldens(arguments: argparse.Namespace) -> dict[str, Any]:
    """Relative differences from the recorded logits of every case of every golden model."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers import expanded_case, golden, golden_directories

    found: dict[str, Any] = {}
    for dtype, largest in LARGEST.items():
        differences = {}
        for directory in golden_directories():
            model = Owl2ForConditionalGeneration.from_pretrained(directory, dtype=dtype).to(arguments.device).eval()
            recorded = golden(directory)
            for case in recorded.cases:
                if f"{case}/logits" not in recorded.tensors or case == "left_pad_refbug":  # the official mistake
                    continue
                inputs = expanded_case(recorded, case, model.config)
                kept = inputs["attention_mask"].bool()
                given = {name: values.to(arguments.device) for name, values in inputs.items() if values is not None}
                if "pixel_values" in given:
                    given["pixel_values"] = given["pixel_values"].to(dtype)
                with torch.no_grad():
                    logits = model(**given).logits.float().cpu()[kept]
                wanted = recorded.tensors[f"{case}/logits"][kept].float()
                differences[f"{directory.name}/{case}"] = float((logits - wanted).norm() / wanted.norm())
        worst = max(differences, key=lambda case: differences[case])
        name = str(dtype).removeprefix("torch.")
        found[name] = {"cases": len(differences), "worst": worst, "difference": differences[worst], "allowed": largest}
        if not differences[worst] <= largest:
            raise AssertionError(f"{worst} differs by {differences[worst]:.2g} in {name}, over {largest}")
    return found


def random_model(arguments: argparse.Namespace, vocabulary: int | None = None) -> Owl2ForConditionalGeneration:
    """Made on the device.

    Args:
        vocabulary: Of a tokenizer, so that every answer is a text.
    """
    torch.manual_seed(0)
    config = config_of("tiny" if arguments.tiny else "full")
    if vocabulary is not None:
        config.text_config.vocab_size = vocabulary
    before = torch.get_default_dtype()
    torch.set_default_dtype(arguments.dtype)
    try:
        with torch.device(arguments.device):
            return Owl2ForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)


def copy_bandwidth(device: str, megabytes: int) -> float:
    """Bytes a second that are read and written in copying; the best of some."""
    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / min(seconds_of(lambda: target.copy_(source), device) for _ in range(10))


def seconds_of(run: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def decode(arguments: argparse.Namespace) -> dict[str, Any]:
    """Greedy answers to an image, with and without CUDA graphs."""
    model = random_model(arguments)
    config, device = model.config, arguments.device
    side = config.vision_config.image_size
    pixels = torch.randn(1, 3, side, side, device=device, dtype=arguments.dtype)
    image = torch.full((1, config.tokens_per_image), config.image_token_id, device=device)
    ids = torch.cat([image, torch.randint(3, config.text_config.vocab_size, (1, PROMPT), device=device)], dim=1)
    inputs = {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}
    graphs: dict[str, Any] = {"cache_implementation": "static", "compile_config": compiled(arguments)}
    model.generation_config.eos_token_id = None
    settings: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}
    tokens, found = arguments.tokens, {}
    answers = {}
    for name, how in (("dynamic", {}), ("graphs", graphs)):

        def generate(count: int, how: dict[str, Any] = how) -> torch.Tensor:
            return model.generate(**inputs, **settings, **how, max_new_tokens=count)

        answers[name] = generate(tokens)[0, ids.shape[1] :].tolist()  # captures graphs, too
        first = statistics.median(seconds_of(lambda: generate(1), device) for _ in range(3))
        whole = statistics.median(seconds_of(lambda: generate(tokens), device) for _ in range(3))
        found[name] = {"first_token_seconds": first, "token_seconds": (whole - first) / (tokens - 1)}
    decoder = model.model.language_model
    read = weight_bytes(decoder) - weight_bytes(decoder.embed_tokens) - vision_bytes(decoder)
    read += weight_bytes(model.lm_head)
    bandwidth = copy_bandwidth(device, 16 if arguments.tiny else 2048)
    same = next((n for n, (a, b) in enumerate(zip(*answers.values(), strict=True)) if a != b), tokens)
    for way in ("dynamic", "graphs"):
        found[way]["share_of_bandwidth"] = read / found[way]["token_seconds"] / bandwidth
    if arguments.dtype == torch.float32 and same < tokens:
        raise AssertionError(f"with graphs, token {same} is another one")
    return {**found, "copy_bandwidth": bandwidth, "bytes_read_a_token": read, "tokens": tokens, "tokens_equal": same}


def compiled(arguments: argparse.Namespace) -> CompileConfig:
    """CUDA graphs; where there are none, one graph is still captured, and run as it is."""
    if arguments.device == "cuda":
        return CompileConfig(mode="reduce-overhead", fullgraph=True)
    settings = CompileConfig(backend="eager", mode=None, fullgraph=True)
    settings._compile_all_devices = True
    return settings


def training(arguments: argparse.Namespace) -> dict[str, Any]:
    """Median seconds, MFU and peak memory of steps in both stages."""
    found: dict[str, Any] = {}
    for stage in (1, 2):
        given = ["--size", "small" if arguments.tiny else "8.2b", "--device", arguments.device]
        given += ["--dtype", str(arguments.dtype).removeprefix("torch."), "--batch", "1" if arguments.tiny else "8"]
        given += ["--lora", "0" if stage == 1 else "64"] + ([] if arguments.tiny else ["--checkpointing"])
        settings = train_step.parse(given)
        settings.dtype = arguments.dtype
        peak, source = train_step.peak_flops(settings)
        contestant = train_step.build("adaptive", stage, settings)
        if settings.checkpointing:
            contestant.model.gradient_checkpointing_enable({"use_reentrant": False})
        with train_step.Turn(contestant, arguments.device) as turn:
            turn.step()
            seconds = statistics.median(turn.seconds(time.perf_counter) for _ in range(arguments.steps))
            memory = turn.peak_bytes()
        found[f"stage {stage}"] = {
            "seconds": seconds,
            "rows": settings.batch,
            "tokens_per_second": contestant.tokens / seconds,
            "mfu": contestant.flops / seconds / peak,
            "target_mfu": train_step.TARGET_MFU[stage],
            "peak_memory_bytes": memory,
            "trained_parameters": sum(p.numel() for p in contestant.model.parameters() if p.requires_grad),
            "lora": settings.lora,
        }
        found["peak_flops"], found["peak_source"] = peak, source
        del contestant, turn
    return found


def serve(arguments: argparse.Namespace) -> dict[str, Any]:
    """`owl2 serve` beside `generate`, by the number of clients."""
    with TemporaryDirectory(dir=arguments.scratch) as folder:
        sizes = config_of("tiny" if arguments.tiny else "full")
        side = sizes.vision_config.image_size
        processor = Owl2Processor(
            Owl2ImageProcessor(size={"height": side, "width": side}),
            train_tokenizer([words(200, seed) for seed in range(50)], 512),
            num_image_tokens=sizes.tokens_per_image,
        )
        model = random_model(arguments, len(processor.tokenizer))
        model.config.image_token_id = processor.image_token_id
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        del model
        release(arguments)
        dtype = str(arguments.dtype).removeprefix("torch.")
        generator = serving.Generator(folder, dtype, arguments.device, 8 if arguments.tiny else 64)
        loads = {count: serving.make_requests(count, 1, 24, seed=count) for count in arguments.clients}
        found: dict[str, Any] = {}
        for count, requests in loads.items():
            one, batch = serving.measure_generate(generator, requests, count)
            found[f"{count} clients"] = {"generate, sequential": one, "generate, one batch": batch}
        ends, tokens = generator.ends, generator.tokens
        del generator  # the server needs its room
        release(arguments)
        with serving.owl2_serve(folder, dtype, arguments.device, []) as server:
            for count, requests in loads.items():
                found[f"{count} clients"]["owl2 serve"] = serving.measure_server(server, requests, count, tokens, ends)
    return found


def release(arguments: argparse.Namespace) -> None:
    gc.collect()
    if arguments.device == "cuda":
        torch.cuda.empty_cache()


RUN: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = dict(
    zip(PARTS, (goldens, decode, training, serve), strict=True)
)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny model, on the CPU where there is no GPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--scratch", type=Path, help="where the served model is kept for a while: 17 GB")
    add_output(parser)
    arguments = parser.parse_args(argv)
    on_gpu = torch.cuda.is_available()
    if not on_gpu and not arguments.tiny:
        parser.error("there is no GPU: --tiny tries the script on the CPU")
    arguments.device = "cuda" if on_gpu else "cpu"
    arguments.dtype = torch.bfloat16 if on_gpu else torch.float32
    arguments.tokens, arguments.steps = (8, 1) if arguments.tiny else (128, 5)
    arguments.clients = [2] if arguments.tiny else [1, 16, 64]
    return arguments


def main() -> int:
    arguments = parse()
    report: dict[str, Any] = {"environment": machine_facts(arguments.device == "cuda")}
    report["settings"] = {**settings_of(arguments), "scratch": None, "dtype": str(arguments.dtype)}
    for part in arguments.parts:
        print(f"{part} ...", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            report[part] = RUN[part](arguments)
        except Exception as error:  # the other parts are worth their time
            traceback.print_exc()
            report[part] = {"failed": f"{type(error).__name__}: {error}"}
        report[part]["seconds_taken"] = time.perf_counter() - start
        release(arguments)
    if arguments.out is None and not arguments.tiny:
        named = re.sub(r"\W+", "_", report["environment"]["device"].lower()).strip("_")
        arguments.out = RESULTS / f"gpu_check_{named}.json"
    show(report, arguments)
    return int(any("failed" in report[part] for part in arguments.parts))


if __name__ == "__main__":
    sys.exit(main())
