"""What the modality-adaptive module costs: prefill, decode and training time beside a plain decoder.

Three decoders share one set of text weights and read the same tokens through the same attention:

* `adaptive`: `Owl2LanguageDecoder` with norms, keys and values per modality (section 3.3),
* `plain`: the same class with the module switched off,
* `llama`: `LlamaModel` of transformers.

They take turns in every round, so that what else the machine does meets all three alike. A training step here is
forward and backward, without an optimizer. Beside prefill and training stands the floor: the matrix products of the
layers alone (in training with those of the gradients), keys and values in two groups of rows with a matrix each against
one, with nothing sorted and no norm; and the ratio to the plain decoder divided by it.
Run `python benchmarks/mam_overhead.py --help`.

Shapes: B batch, S sequence, D hidden.
"""

import argparse
import gc
import os
import platform
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from common import add_clock, add_output, check_clock, clock_of, settings_of, show
from transformers import DynamicCache, LlamaConfig, LlamaModel, PreTrainedModel, StaticCache

from owl2.environment import MALLOC_SETTINGS, processor_name
from owl2.modeling import Owl2LanguageDecoder, Owl2TextConfig

SIZES = {
    "small": dict(hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8),
    "1024": dict(hidden_size=1024, intermediate_size=2752, num_hidden_layers=4, num_attention_heads=16),
    "2048": dict(hidden_size=2048, intermediate_size=5504, num_hidden_layers=2, num_attention_heads=16),
    "4096": dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=1, num_attention_heads=32),
    "llama-7b": dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32),
}
"""LLaMA's proportions; the wide ones have few layers, which a ratio of times does not depend on."""

PREFIX, IMAGE_ROWS = 8, 65  # text in front of the image, and the rows of one image
DECODED_TOKENS = 16  # a decoding measurement
PAIRS = (("adaptive", "plain"), ("adaptive", "llama"), ("plain", "llama"))
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.02, "float16": 0.004}
"""Largest relative difference of outputs of the same weights, in the norm of all of them.

Rounding is relative: each number carries an error of its precision (2^-9 in bfloat16, 2^-12 in float16), and sums over
another order of rows round otherwise. The largest single difference grows with the width and with the largest output,
so a bound on it that is right at 512 refuses the same arithmetic at 4,096.
"""
TARGETS = {"prefill": {113: 1.03, 512: 1.02}, "train": {0: 1.03}, "decode": {0: 1.01}}
"""Largest wanted ratio of `adaptive` from a length on."""


def build_models(arguments: argparse.Namespace) -> dict[str, PreTrainedModel]:
    """The three decoders. Text weights are the same memory, vision weights copies of the text weights."""
    sizes = {**SIZES[arguments.size], "vocab_size": 8, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6}
    sizes |= {"bos_token_id": 1, "eos_token_id": 2, "attn_implementation": arguments.attention}
    torch.manual_seed(0)
    with torch.device(arguments.device):
        adaptive = Owl2LanguageDecoder(Owl2TextConfig(**sizes, modality_adaptive=("norm", "k", "v")))
        plain = Owl2LanguageDecoder(Owl2TextConfig(**sizes, modality_adaptive=()))
        llama = LlamaModel(LlamaConfig(**sizes))
    adaptive = adaptive.to(arguments.dtype)
    text = {name: tensor for name, tensor in adaptive.state_dict().items() if "vision_" not in name}
    for model in (plain, llama):
        model.load_state_dict(text, assign=True)
    adaptive.load_state_dict(
        {name: text[name.replace("vision_", "")] for name in adaptive.state_dict() if "vision_" in name}, strict=False
    )
    return {"adaptive": adaptive, "plain": plain, "llama": llama}


class Inputs:
    """A batch of `length` tokens with one image each, as each decoder wants to be called."""

    def __init__(self, model: PreTrainedModel, batch: int, length: int) -> None:
        shape, like = (batch, length, model.config.hidden_size), dict(device=model.device, dtype=model.dtype)
        generator = torch.Generator(model.device).manual_seed(1)
        self.embeddings = torch.randn(shape, generator=generator, **like).requires_grad_()  # [B, S, D]
        self.gradient = torch.randn(shape, generator=generator, **like)  # of the loss at the output
        self.token = torch.randn((batch, 1, shape[-1]), generator=generator, **like)
        self.is_vision = torch.zeros(batch, length, dtype=torch.bool, device=model.device)
        self.is_vision[:, PREFIX : PREFIX + IMAGE_ROWS] = True

    def of(self, name: str) -> dict[str, Any]:
        modality = {"is_vision": self.is_vision, "num_vision": self.is_vision.shape[0] * IMAGE_ROWS}
        return {"inputs_embeds": self.embeddings, **(modality if name == "adaptive" else {})}


@torch.no_grad()
def check_equal_outputs(models: dict[str, PreTrainedModel], inputs: Inputs, tolerance: float) -> float:
    """Largest relative difference between the outputs; then other vision weights must change the visual rows alone."""
    outputs = {name: model.eval()(**inputs.of(name)).last_hidden_state.float() for name, model in models.items()}
    difference = max(relative_difference(output, outputs["llama"]) for output in outputs.values())
    if difference > tolerance:
        raise SystemExit(f"The decoders disagree by {difference:.2g}, more than {tolerance:.2g}: nothing was timed.")
    adaptive = models["adaptive"]
    for name, weight in adaptive.named_parameters():
        if "vision_" in name:
            weight.mul_(1.5)
    changed = adaptive(**inputs.of("adaptive")).last_hidden_state.float()  # [B, S, D]
    before = relative_difference(changed[:, :PREFIX], outputs["llama"][:, :PREFIX])
    visual = relative_difference(changed[inputs.is_vision], outputs["llama"][inputs.is_vision])
    if not before <= tolerance < visual:
        raise SystemExit("Other vision weights must change the visual rows and no row before them: nothing was timed.")
    return difference


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference by the norm of the other."""
    return ((one - other).norm() / other.norm()).item()


def prefill(model: PreTrainedModel, inputs: dict[str, Any]) -> Callable[[], None]:
    """Reads the prompt into a cache."""

    @torch.no_grad()
    def run() -> None:
        model(**inputs, use_cache=True, past_key_values=DynamicCache(config=model.config))

    return run


def decode(model: PreTrainedModel, inputs: dict[str, Any], token: torch.Tensor, room: int) -> Callable[[], None]:
    """Writes `DECODED_TOKENS` tokens after the prompt; `room`, if any, is the size of a static cache."""
    cache = StaticCache(config=model.config, max_cache_len=room) if room else DynamicCache(config=model.config)
    with torch.no_grad():
        model(**inputs, use_cache=True, past_key_values=cache)

    @torch.no_grad()
    def run() -> None:
        for _ in range(DECODED_TOKENS):
            model(inputs_embeds=token, use_cache=True, past_key_values=cache)
        if not room:
            cache.crop(-DECODED_TOKENS)

    return run


def train(model: PreTrainedModel, inputs: dict[str, Any], gradient: torch.Tensor) -> Callable[[], None]:
    """Forward and backward."""

    def run() -> None:
        model(**inputs, use_cache=False).last_hidden_state.backward(gradient)
        model.zero_grad(set_to_none=True)
        inputs["inputs_embeds"].grad = None

    return run


def products(model: PreTrainedModel, length: int, num_vision: int, backward: bool) -> dict[str, Callable[[], None]]:
    """The matrix products of all layers of the adaptive decoder and of the plain one, on rows [S, D] that lie ready.

    Args:
        backward: With those of the gradients of rows and weights.
    """
    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    rows, wide = (
        torch.randn(length, size, device=model.device, dtype=model.dtype, requires_grad=backward)
        for size in (hidden, inner)
    )
    vision, text = rows[:num_vision], rows[num_vision:]

    def multiply(projection: torch.nn.Module, given: torch.Tensor) -> None:
        product = projection(given)
        if backward:
            torch.autograd.grad(product, (given, projection.weight), torch.ones_like(product))

    def run(grouped: bool) -> None:
        for layer in model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for projection in (attention.q_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj):
                multiply(projection, rows)
            multiply(mlp.down_proj, wide)
            for name in ("k_proj", "v_proj"):
                if grouped:
                    multiply(getattr(attention, f"vision_{name}"), vision)
                    multiply(getattr(attention, name), text)
                else:
                    multiply(getattr(attention, name), rows)

    def timed(grouped: bool) -> None:
        with torch.set_grad_enabled(backward):
            run(grouped)

    return {"adaptive": partial(timed, True), "plain": partial(timed, False)}


def elapsed(run: Callable[[], None], device: str, clock: Callable[[], float]) -> float:
    """Seconds of one call."""
    if device == "cpu":
        start = clock()
        run()
        return clock() - start
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def round_robin(runs: dict[str, Callable[[], None]], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each run in each round. Every round begins with another one."""
    clock = clock_of(arguments)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    gc.collect()
    gc.disable()
    for index in range(-arguments.warmup, arguments.rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            taken = elapsed(runs[name], arguments.device, clock)
            if index >= 0:
                seconds[name].append(taken)
    gc.enable()
    return seconds


def summarize(phase: str, batch: int, length: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Times and ratios of one measurement; a ratio is the median over the rounds, with its quartiles."""
    times = {
        name: {
            "median": statistics.median(taken),
            "minimum": min(taken),
            "spread": (max(taken) - min(taken)) / statistics.median(taken),
            "rounds": taken,
        }
        for name, taken in seconds.items()
    }
    ratios = {}
    for one, other in PAIRS:
        lower, middle, upper = statistics.quantiles(
            [a / b for a, b in zip(seconds[one], seconds[other], strict=True)], n=4, method="inclusive"
        )
        ratios[f"{one}/{other}"] = {
            "median": middle,
            "quartiles": [lower, upper],
            "of_medians": times[one]["median"] / times[other]["median"],
            "of_minima": times[one]["minimum"] / times[other]["minimum"],
        }
    targets = [limit for start, limit in sorted(TARGETS[phase].items()) if length >= start]
    target = targets[-1] if targets else None
    return {"phase": phase, "batch": batch, "length": length, "seconds": times, "ratios": ratios, "target": target}


def measure(models: dict[str, PreTrainedModel], arguments: argparse.Namespace, length: int) -> list[dict[str, Any]]:
    """All phases at one length."""
    inputs = Inputs(models["plain"], arguments.batch, length)
    room = length + DECODED_TOKENS * (arguments.warmup + arguments.rounds) if arguments.compile else 0
    results = []
    for phase in arguments.phases:
        runs = {}
        for name, model in models.items():
            model.train(phase == "train")
            if phase == "prefill":
                runs[name] = prefill(model, inputs.of(name))
            elif phase == "decode":
                runs[name] = decode(model, inputs.of(name), inputs.token, room)
            else:
                runs[name] = train(model, inputs.of(name), inputs.gradient)
        results.append(summarize(phase, arguments.batch, length, round_robin(runs, arguments)))
        if phase != "decode":
            rows, visual = arguments.batch * length, arguments.batch * IMAGE_ROWS
            seconds = round_robin(products(models["adaptive"], rows, visual, phase == "train"), arguments)
            ratios = [a / b for a, b in zip(seconds["adaptive"], seconds["plain"], strict=True)]
            floor = statistics.median(ratios)
            results[-1] |= {"floor": floor, "by_floor": results[-1]["ratios"]["adaptive/plain"]["median"] / floor}
    return results


def environment(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where and how this ran."""
    return {
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "clock": "CUDA events" if arguments.device == "cuda" else arguments.clock,
        "allocator_settings": all(os.environ.get(name) == value for name, value in MALLOC_SETTINGS.items()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "platform": platform.platform(),
    }


def table(report: dict[str, Any]) -> str:
    """The ratios for a terminal."""
    where, settings = report["environment"], report["settings"]
    lines = [
        f"{where['device']}, {where['threads']} thread(s), torch {where['torch']}, transformers "
        f"{where['transformers']}; size {settings['size']}, {settings['dtype']}, {settings['attention']}"
        f"{', compiled' if settings['compile'] else ''}; {settings['rounds']} rounds, clock: {where['clock']}",
        f"{'':8} {'B':>3} {'S':>5} {'adaptive':>10}   {'/plain':>6} {'quartiles':^13} {'/llama':>6} "
        f"{'plain/llama':>11} {'target':>6} {'floor':>6} {'/floor':>6}",
    ]
    for row in report["results"]:
        ratio = {name: row["ratios"][name]["median"] for name in row["ratios"]}
        low, high = row["ratios"]["adaptive/plain"]["quartiles"]
        target = "-" if row["target"] is None else f"{row['target']:.2f}"
        milliseconds = row["seconds"]["adaptive"]["median"] * 1e3
        lines.append(
            f"{row['phase']:8} {row['batch']:3} {row['length']:5} {milliseconds:7.1f} ms   "
            f"{ratio['adaptive/plain']:6.3f} {low:6.3f}-{high:5.3f}  {ratio['adaptive/llama']:6.3f} "
            f"{ratio['plain/llama']:11.3f} {target:>6}"
            + (f" {row['floor']:6.3f} {row['by_floor']:6.3f}" if "floor" in row else "")
        )
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--lengths", type=int, nargs="+", default=[113, 512, 1024], help="tokens, 65 of them the image")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--phases", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile(fullgraph=True); a static cache in decode"
    )
    parser.add_argument("--rounds", type=int, default=15, help="at least 5")
    parser.add_argument("--warmup", type=int, default=3, help="rounds that are not counted")
    add_clock(parser)
    add_output(parser, has_table=True)
    arguments = parser.parse_args(argv)
    if arguments.rounds < 5:
        parser.error("medians need at least 5 rounds")
    if min(arguments.lengths) < PREFIX + IMAGE_ROWS:
        parser.error(f"a length must be {PREFIX + IMAGE_ROWS} or more: {PREFIX} of text and {IMAGE_ROWS} of the image")
    check_clock(parser, arguments)
    return arguments


def main() -> None:
    arguments = parse()
    settings = settings_of(arguments)
    arguments.dtype = getattr(torch, arguments.dtype)
    models = build_models(arguments)
    tolerance = TOLERANCES[settings["dtype"]]
    difference = check_equal_outputs(models, Inputs(models["plain"], 2, 113), tolerance)
    if arguments.compile:
        torch._dynamo.config.recompile_limit = 64  # three models, each in training and evaluation, share their wrappers
        for model in models.values():
            model.compile(fullgraph=True)
    results = []
    for length in arguments.lengths:
        results += measure(models, arguments, length)
    report = {
        "environment": environment(arguments),
        "settings": {**settings, **SIZES[arguments.size]},
        "relative_difference": difference,
        "results": results,
    }
    show(report, arguments, table(report))


if __name__ == "__main__":
    main()
