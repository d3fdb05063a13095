"""The official code beside owl2, and transformers' LLaVA of equal sizes as the third.

The official code runs in an environment of its own (transformers 4.31 and torch 2.13 work together) from a checkout of
the user's; nothing of it is in this repository. It and owl2 load the same random weights in the official layout, in
float32, and are asked the same: their answers must agree to the token. Each turn of a contestant is a new process, and
the contestants take turns in every round, so that what else the machine does meets all alike and memory is each one's
own:

* load, the first token after an image and 48 tokens, each of 64 tokens after it,
* 32 questions of unequal lengths about an image each, in the best batch: one at a time for the official code, whose
  masks of padding on the left are wrong, `--batch` for the others,
* a training step of stage 2, everything trained by AdamW, on an image in a row of text; peak memory.

Run `python benchmarks/peers.py --help`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from common import add_output, machine_facts, settings_of, show
from full_size import SIZES, config_of, make_checkpoint
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

WORKER = Path(__file__).with_name("peers_worker.py")
NAMES = ("official", "owl2", "llava")
TIMES = ("load", "first_token", "token", "questions", "training_step")


def make_llava(directory: Path, size: str) -> None:
    """A LLaVA whose parts have the sizes of ours, with random weights; what is there stays."""
    if (directory / "config.json").is_file():
        return
    config = config_of(size)
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vision, text = config.vision_config, config.text_config
    llava = LlavaConfig(
        vision_config=CLIPVisionConfig(**{key: getattr(vision, key) for key in (*same, "image_size", "patch_size")}),
        text_config=LlamaConfig(
            **{key: getattr(text, key) for key in (*same, "max_position_embeddings", "rms_norm_eps")},
            vocab_size=text.vocab_size + 1,  # and the id of the image
        ),
        image_token_index=text.vocab_size,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(llava).save_pretrained(directory)


def turn(name: str, arguments: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything about a contestant, in a new process."""
    python = arguments.official_python if name == "official" else sys.executable
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "false"}
    if name == "official":
        environment.pop("PYTHONPATH", None)
    command = [str(python), str(WORKER), json.dumps({**settings, "name": name})]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise SystemExit(f"{name} failed:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def check_agreement(official: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """The same tokens and the same loss, or an end."""
    pairs = list(zip(official["answers"], ours["answers"], strict=True))
    different = [number for number, (one, other) in enumerate(pairs) if one != other]
    off = abs(official["loss"] - ours["loss"]) / abs(official["loss"])
    if different or off > 1e-4:
        raise SystemExit(
            f"{len(different)} of {len(pairs)} answers differ, first number {different[:1]}, and the losses by "
            f"{off:.1g}: nothing is recorded."
        )
    tokens = sum(len(one) for one, _ in pairs)
    return {"answers": len(pairs), "tokens": tokens, "relative_difference_of_losses": off}


def summary(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of each contestant, and of the ratios to owl2 in each round."""
    contestants = {}
    for name, found in turns.items():
        numbers = [key for key, value in found[0].items() if isinstance(value, int | float)]
        contestants[name] = {key: statistics.median(each[key] for each in found) for key in numbers}
    ratios = {
        f"{name}/owl2": {
            kind: statistics.median(
                one[f"{kind}_seconds"] / other[f"{kind}_seconds"]
                for one, other in zip(turns[name], turns["owl2"], strict=True)
            )
            for kind in TIMES
        }
        for name in turns
        if name != "owl2"
    }
    return {"contestants": contestants, "ratios_of_seconds": ratios}


def table(report: dict[str, Any]) -> str:
    """The results for a terminal."""
    lines = [
        f"{report['environment']['device']}, {report['settings']['threads']} thread(s), size "
        f"{report['settings']['size']}; {report['agreement']['tokens']} tokens of the official code and owl2 are equal",
        f"{'':10}" + "".join(f"{kind.replace('_', ' '):>15}" for kind in TIMES) + f"{'peak':>10}",
    ]
    for name, row in report["contestants"].items():
        cells = "".join(f"{row[f'{kind}_seconds']:13.3f} s" for kind in TIMES)
        lines.append(f"{name:10}{cells}{row['peak_bytes'] / 1e9:7.2f} GB")
    for name, ratios in report["ratios_of_seconds"].items():
        lines.append(f"{name:14}" + "  ".join(f"{kind} {ratios[kind]:.2f} x" for kind in TIMES))
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", type=Path, required=True, help="checkout of the official repository")
    parser.add_argument("--official-python", type=Path, required=True, help="Python of its environment")
    parser.add_argument("--checkpoint", type=Path, required=True, help="where the random weights are, or will be")
    parser.add_argument("--size", choices=SIZES, default="300m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="of the first token and of training steps, in a turn")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16, help="questions at a time, but for the official code")
    parser.add_argument("--row", type=int, default=256, help="tokens of text in a training step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall", help="processor: on a busy machine")
    add_output(parser, has_table=True)
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    config, ours, llava = config_of(arguments.size), arguments.checkpoint / "official", arguments.checkpoint / "llava"
    make_checkpoint(ours, arguments.size)
    make_llava(llava, arguments.size)
    keys = ("repeats", "tokens", "questions", "batch", "row", "threads", "clock")
    settings = {
        **{key: getattr(arguments, key) for key in keys},
        "official": str(arguments.official.resolve()),
        "checkpoint": str(ours.resolve()),
        "llava": str(llava.resolve()),
        "short": 8,
        "rows": config.tokens_per_image,
        "placeholder": config.image_token_id,
        "patches": (config.vision_config.image_size // config.vision_config.patch_size) ** 2,
        "image_size": config.vision_config.image_size,
        "vocabulary": config.text_config.vocab_size,
    }
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    for number in range(arguments.rounds):
        first = number % len(NAMES)
        for name in NAMES[first:] + NAMES[:first]:
            turns[name].append(turn(name, arguments, settings))
    report = {
        "environment": machine_facts(on_gpu=False),
        "settings": {name: value for name, value in settings_of(arguments).items() if not isinstance(value, Path)},
        "agreement": check_agreement(turns["official"][0], turns["owl2"][0]),
        **summary(turns),
    }
    show(report, arguments, table(report))


if __name__ == "__main__":
    main()
