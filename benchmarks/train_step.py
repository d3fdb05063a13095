"""Speed, MFU and memory of training steps, beside the same model without MAM and beside transformers' LLaVA.

Three models of equal sizes take turns in every round, so that what else the machine does meets all alike:

* `adaptive`: mPLUG-Owl2 with its modality-adaptive module,
* `plain`: the same without it,
* `llava`: `LlavaForConditionalGeneration` with the same vision encoder and language model, but an MLP between them: an
  image takes a row for every patch, not 65.

A step is forward, backward and AdamW update. In stage 1 the language model is frozen and a sample is an image with a
caption, in stage 2 it is an image in a row of equal length for all three; there everything trains, or with `--lora`
adapters on the language model. Operations are those of each model's own sample. On a GPU the peak is the datasheet's,
on a CPU the speed of a large matrix product, measured first. Run `python benchmarks/train_step.py --help`.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import add_clock, add_output, check_clock, clock_of, settings_of, show
from mam_overhead import environment
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from owl2.modeling import Owl2Config, Owl2ForConditionalGeneration
from owl2.modeling.parts import PARTS
from owl2.training.adapters.lora import apply_lora
from owl2.training.cost.flops import (
    Lora,
    Product,
    SampleSize,
    Trained,
    decoder_products,
    projection_sizes,
    sample_flops,
    vision_products,
)
from owl2.training.cost.gpu_specs import gpu_of_device
from owl2.training.stages import PRETRAINING_PARTS, select_trainable

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from tensor_memory import TensorMemory  # noqa: E402


class Stage(NamedTuple):
    """Pixels of an image's side, and the length of a row: of its text, or of all of it."""

    image_size: int
    text_tokens: int | None = None
    row_length: int | None = None

    def text_beside(self, image_rows: int) -> int:
        """Tokens of text in a row with an image of so many rows."""
        text = self.text_tokens if self.row_length is None else self.row_length - image_rows
        assert text is not None and text > 0, "a stage gives one of the two lengths"
        return text


SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "vision": dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4),
        "abstractor": dict(hidden_size=256, intermediate_size=688, num_hidden_layers=2, num_attention_heads=4),
        "text": dict(
            hidden_size=512, intermediate_size=1376, num_hidden_layers=6, num_attention_heads=8, vocab_size=4000
        ),
        "stages": {1: Stage(112, text_tokens=48), 2: Stage(224, row_length=512)},
    },
    "8.2b": {
        "vision": {},
        "abstractor": {},
        "text": {},
        "stages": {1: Stage(224, text_tokens=48), 2: Stage(448, row_length=2048)},
    },
}
"""The second one is the paper's model, and its stages' lengths (Table 9)."""

MODELS = ("adaptive", "plain", "llava")
RATIOS = (("adaptive", "plain"), ("adaptive", "llava"))
TARGET_MFU = {1: 0.47, 2: 0.50}  # on one GPU


class Contestant(NamedTuple):
    """A model with a batch for it, and the operations of a step."""

    model: nn.Module
    batch: dict[str, torch.Tensor]
    loss: Callable[[nn.Module, dict[str, torch.Tensor]], torch.Tensor]
    flops: float
    tokens: int


def build(name: str, stage: int, arguments: argparse.Namespace) -> Contestant:
    """A model with random weights of which the stage's parts train, on the host; a batch of one image a row."""
    torch.manual_seed(0)
    sizes = SIZES[arguments.size]
    settings: Stage = sizes["stages"][stage]
    config = Owl2Config(
        vision_config={**sizes["vision"], "image_size": settings.image_size},
        abstractor_config=sizes["abstractor"],
        text_config={
            **sizes["text"],
            "max_position_embeddings": 4096,
            "modality_adaptive": ("norm", "k", "v") if name == "adaptive" else (),
        },
    )
    parts = frozenset(PRETRAINING_PARTS if stage == 1 or arguments.lora else PARTS)
    adapters = frozenset(own for own in projection_sizes(config.text_config) if not own.startswith("vision_"))
    lora = Lora(arguments.lora, adapters) if stage == 2 and arguments.lora else None
    make = build_llava if name == "llava" else build_owl2
    return make(config, settings, Trained(parts, lora), arguments)


def build_owl2(config: Owl2Config, stage: Stage, trained: Trained, arguments: argparse.Namespace) -> Contestant:
    model = Owl2ForConditionalGeneration(config).to(arguments.dtype)
    select_trainable(model, trained.parts)
    if trained.lora is not None:
        apply_lora(model, trained.lora.rank, 2 * trained.lora.rank, targets=trained.lora.targets)
    rows = config.tokens_per_image
    text = stage.text_beside(rows)
    flops = sample_flops(config, SampleSize(text, 1, stage.image_size), trained).total
    batch = one_image_a_row(config, rows, text, stage, config.image_token_id, arguments)
    return Contestant(model, batch, loss_of_owl2, arguments.batch * flops, arguments.batch * (rows + text))


def loss_of_owl2(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch, loss_only=True, use_cache=False).loss


def build_llava(config: Owl2Config, stage: Stage, trained: Trained, arguments: argparse.Namespace) -> Contestant:
    """LLaVA of the same sizes; its projector stands where the abstractor is."""
    vision, text = config.vision_config, config.text_config
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    llava = LlavaConfig(
        vision_config=CLIPVisionConfig(
            **{key: getattr(vision, key) for key in (*same, "image_size", "patch_size", "hidden_act")}
        ),
        text_config=LlamaConfig(
            **{key: getattr(text, key) for key in (*same, "max_position_embeddings", "rms_norm_eps")},
            vocab_size=text.vocab_size + 1,  # and the id of the image
        ),
        image_token_index=text.vocab_size,
        vision_feature_layer=-1,  # all layers, as ours
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(llava).to(arguments.dtype)
    for name, parameter in model.named_parameters():
        own = "vision_encoder" if "vision_tower" in name else "abstractor" if "projector" in name else "shared"
        parameter.requires_grad_(own in trained.parts)
    if trained.lora is not None:
        add_adapters(model, trained.lora)
    rows = (stage.image_size // vision.patch_size) ** 2
    words = stage.text_beside(rows)
    products = vision_products(vision, stage.image_size, True)
    projector = 2 * rows * (vision.hidden_size * text.hidden_size + text.hidden_size**2)
    products.append(Product("projector", projector, True, True))
    products += decoder_products(text, words, rows, trained, True)
    products.append(
        Product("head", 2 * words * text.hidden_size * text.vocab_size, "embeddings" in trained.parts, True)
    )
    batch = one_image_a_row(config, rows, words, stage, text.vocab_size, arguments)
    flops = arguments.batch * sum(product.training for product in products)
    return Contestant(model, batch, loss_of_llava, flops, arguments.batch * (rows + words))


def loss_of_llava(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**batch, use_cache=False).loss


def add_adapters(model: nn.Module, lora: Lora) -> None:
    """As `apply_lora`, for another model."""
    from peft import LoraConfig, inject_adapter_in_model

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    pattern = rf".*language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(lora.targets)})"
    inject_adapter_in_model(LoraConfig(r=lora.rank, lora_alpha=2 * lora.rank, target_modules=pattern), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained or ".lora_" in name)


def one_image_a_row(
    config: Owl2Config, rows: int, text: int, stage: Stage, image_token: int, arguments: argparse.Namespace
) -> dict[str, torch.Tensor]:
    """Rows of one image and text that is all learnt."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(3, config.text_config.vocab_size, (arguments.batch, text), generator=generator)
    image = torch.full((arguments.batch, rows), image_token)
    side = stage.image_size
    return {
        "input_ids": torch.cat([image, words], dim=1),
        "labels": torch.cat([torch.full_like(image, -100), words], dim=1),
        "pixel_values": torch.randn(arguments.batch, 3, side, side, generator=generator).to(arguments.dtype),
    }


class Turn:
    """A contestant on the device with its optimizer; the context ends by taking it off again.

    On a CPU all stay where they are. A GPU holds one at a time, because three would not fit.
    """

    def __init__(self, contestant: Contestant, device: str) -> None:
        self.contestant, self.device = contestant, device

    def __enter__(self) -> "Turn":
        self.contestant.model.to(self.device).train()
        self.batch = {name: tensor.to(self.device) for name, tensor in self.contestant.batch.items()}
        # Float32 copies of the trained weights, as training keeps them.
        self.weights = [weight for weight in self.contestant.model.parameters() if weight.requires_grad]
        self.masters = [weight.detach().clone().float().requires_grad_() for weight in self.weights]
        self.optimizer = torch.optim.AdamW(self.masters, lr=1e-5, weight_decay=0.05, fused=True)
        return self

    def __exit__(self, *error: Any) -> None:
        del self.optimizer, self.weights, self.masters, self.batch
        if self.device == "cuda":
            self.contestant.model.to("cpu")
            gc.collect()
            torch.cuda.empty_cache()

    def step(self) -> None:
        self.contestant.loss(self.contestant.model, self.batch).backward()
        for weight, master in zip(self.weights, self.masters, strict=True):
            master.grad, weight.grad = (None if weight.grad is None else weight.grad.float()), None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.masters)

    def seconds(self, clock: Callable[[], float]) -> float:
        """Of one step."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        start = clock()
        self.step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    def peak_bytes(self) -> int:
        """Most bytes of tensors during a step."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.step()
            return torch.cuda.max_memory_allocated()
        state = [value for each in self.optimizer.state.values() for value in each.values()]
        held = (*self.contestant.model.parameters(), *self.masters, *state, *self.batch.values())
        with TensorMemory(*held) as memory:
            self.step()
        return memory.peak


def measure(stage: int, peak: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """All models in one stage, in turns; every round begins with another one."""
    contestants = {name: build(name, stage, arguments) for name in MODELS}
    if arguments.checkpointing:
        for contestant in contestants.values():
            contestant.model.gradient_checkpointing_enable({"use_reentrant": False})
    clock = clock_of(arguments)
    seconds: dict[str, list[float]] = {name: [] for name in MODELS}
    memory: dict[str, int] = {}
    names = list(MODELS)
    for index in range(arguments.rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            with Turn(contestants[name], arguments.device) as turn:
                for _ in range(arguments.warmup):
                    turn.step()
                taken = [turn.seconds(clock) for _ in range(arguments.steps)]
                seconds[name].append(statistics.median(taken))
                if name not in memory:
                    memory[name] = turn.peak_bytes()
    return summarize(stage, contestants, seconds, memory, peak, arguments)


def summarize(
    stage: int,
    contestants: dict[str, Contestant],
    seconds: dict[str, list[float]],
    memory: dict[str, int],
    peak: float,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Medians over the rounds; a ratio is the median of the ratios of each round, with its quartiles."""
    models = {}
    for name, contestant in contestants.items():
        median = statistics.median(seconds[name])
        models[name] = {
            "seconds": median,
            "rounds": seconds[name],
            "tokens_per_second": contestant.tokens / median,
            "samples_per_second": arguments.batch / median,
            "tokens_per_row": contestant.tokens // arguments.batch,
            "teraflops_per_step": contestant.flops / 1e12,
            "mfu": contestant.flops / median / peak,
            "peak_memory_bytes": memory[name],
            "trained_parameters": sum(p.numel() for p in contestant.model.parameters() if p.requires_grad),
        }
    ratios = {}
    for one, other in RATIOS:
        each = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
        lower, middle, upper = statistics.quantiles(each, n=4, method="inclusive")
        ratios[f"{one}/{other}"] = {"median": middle, "quartiles": [lower, upper]}
    return {"stage": stage, "models": models, "ratios_of_seconds": ratios, "target_mfu": TARGET_MFU[stage]}


def peak_flops(arguments: argparse.Namespace) -> tuple[float, str]:
    """Operations a second at most, and where that is from."""
    if arguments.device == "cuda":
        name = torch.cuda.get_device_name()
        gpu = gpu_of_device(name)
        if gpu is None:
            raise SystemExit(f"The peak of {name} is not known: add it to owl2/training/gpus.py.")
        return gpu.flops, gpu.source
    side, best = 1024, float("inf")
    left, right = torch.randn(2, side, side).to(arguments.dtype)
    for _ in range(10):
        start = time.process_time()
        left @ right
        best = min(best, time.process_time() - start)
    return 2 * side**3 / best, f"fastest of 10 products of {side} x {side} matrices"


def table(report: dict[str, Any]) -> str:
    """The results for a terminal."""
    where, settings = report["environment"], report["settings"]
    lines = [
        f"{where['device']}, torch {where['torch']}, transformers {where['transformers']}; size {settings['size']}, "
        f"{settings['dtype']}, batch {settings['batch']}, {settings['rounds']} rounds; peak "
        f"{report['peak_flops'] / 1e12:.3g} TFLOP/s ({report['peak_source']})",
        f"{'stage':5} {'model':9} {'ms':>8} {'tokens':>6} {'tokens/s':>9} {'samples/s':>9} {'MFU':>6} {'GiB':>6}",
    ]
    for result in report["results"]:
        for name, model in result["models"].items():
            ratio = ""
            if name != "adaptive":
                found = result["ratios_of_seconds"][f"adaptive/{name}"]
                ratio = (
                    f"adaptive/{name} {found['median']:.3f} ({found['quartiles'][0]:.3f}-{found['quartiles'][1]:.3f})"
                )
            lines.append(
                f"{result['stage']:<5} {name:9} {model['seconds'] * 1e3:8.1f} {model['tokens_per_row']:6} "
                f"{model['tokens_per_second']:9.1f} {model['samples_per_second']:9.2f} {model['mfu']:6.1%} "
                f"{model['peak_memory_bytes'] / 2**30:6.2f}  {ratio}"
            )
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="8.2b" if on_gpu else "small")
    parser.add_argument("--stages", type=int, nargs="+", choices=[1, 2], default=[1, 2])
    parser.add_argument("--batch", type=int, default=4, help="rows, each with one image")
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="stage 2 with adapters; 0: in full")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if on_gpu else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--checkpointing", action="store_true", help="keep only the input of each layer, all three")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each model, at least 5")
    parser.add_argument("--steps", type=int, default=1, help="timed steps of a turn")
    parser.add_argument("--warmup", type=int, default=1, help="steps of a turn that are not timed")
    add_clock(parser)
    add_output(parser, has_table=True)
    arguments = parser.parse_args(argv)
    if arguments.rounds < 5 or arguments.steps < 1:
        parser.error("medians need at least 5 rounds of at least one step")
    check_clock(parser, arguments)
    return arguments


def main() -> None:
    arguments = parse()
    settings = settings_of(arguments)
    arguments.dtype = getattr(torch, arguments.dtype)
    peak, source = peak_flops(arguments)
    report = {
        "environment": environment(arguments),
        "settings": settings,
        "peak_flops": peak,
        "peak_source": source,
        "results": [measure(stage, peak, arguments) for stage in arguments.stages],
    }
    show(report, arguments, table(report))


if __name__ == "__main__":
    main()
