"""How fast stage-1 pairs become pixels, beside Pillow and WebDataset.

Two measurements, one core, one image at a time, at 224 and at 448 pixels:

* `decode`: the bytes of a 640 x 480 JPEG to the uint8 pixels of a random resized crop. `owl2` is what training does
  (`load_image`, `random_crop`, `crop_and_resize`); `pillow` decodes and resizes the same boxes with Pillow alone;
  `limit` only decodes.
* `shards`: a tar shard of img2dataset to pixels and captions. `owl2` is `PairSamples` in its random order;
  `webdataset` is `wds.WebDataset(...).decode("pil")` with such boxes and Pillow's resize, in the order of the file.

All take turns in every round, so that what else the machine does meets all alike. `python benchmarks/data.py --help`.
"""

import argparse
import io
import json
import os
import platform
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from owl2.data.augmentation import random_crop
from owl2.data.decoding import crop_and_resize
from owl2.data.pairs import Draw, PairSamples, PairSettings, TarShards, index_shards
from owl2.environment import processor_name
from owl2.processing import load_image

WIDTH, HEIGHT = 640, 480
TARGETS = {224: 570, 448: 450}
"""Images per core-second that are wanted of `decode`, `owl2`."""

Run = Callable[[int], None]


def photographs(count: int, quality: int) -> list[bytes]:
    """JPEGs whose power falls with the square of the frequency, as in photographs; 4:2:0, like most of the web's."""
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None] * HEIGHT, np.fft.rfftfreq(WIDTH)[None] * WIDTH)
    files = []
    for _ in range(count):
        grey, *colours = (
            np.fft.irfft2(np.fft.rfft2(generator.standard_normal((HEIGHT, WIDTH))) / np.maximum(frequency, 1))
            for _ in range(4)
        )
        channels = [grey + 0.4 * colour for colour in colours]
        pixels = np.stack([128 + 50 * channel / channel.std() for channel in channels], axis=-1)
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
        files.append(buffer.getvalue())
    return files


def write_shard(folder: Path, files: list[bytes], pairs: int) -> None:
    """A shard as img2dataset writes it."""
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number, content in zip(range(pairs), cycle(files)):
            fields = json.dumps({"caption": f"picture {number}", "key": f"{number:09d}"}).encode()
            for suffix, octets in (("jpg", content), ("json", fields), ("txt", f"picture {number}".encode())):
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(octets)
                tar.addfile(member, io.BytesIO(octets))


def decoding_runs(files: list[bytes], size: int) -> dict[str, Run]:
    """From bytes to pixels."""

    def owl2(count: int) -> None:
        generator = random.Random(0)
        for _, content in zip(range(count), cycle(files)):
            image = load_image(content)
            crop_and_resize(image, random_crop(image.width, image.height, generator), size)

    def pillow(count: int) -> None:
        generator = random.Random(0)
        for _, content in zip(range(count), cycle(files)):
            pillow_pixels(Image.open(io.BytesIO(content)).convert("RGB"), size, generator)

    def limit(count: int) -> None:
        for _, content in zip(range(count), cycle(files)):
            Image.open(io.BytesIO(content)).load()

    return {"owl2": owl2, "pillow": pillow, "limit": limit}


def pillow_pixels(image: Image.Image, size: int, generator: random.Random) -> torch.Tensor:
    """Random resized crop with Pillow: uint8 [3, size, size]."""
    crop = random_crop(image.width, image.height, generator)
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    resized = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    if crop.flip:
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def shard_runs(folder: Path, size: int) -> dict[str, Run]:
    """From shards to pixels and captions."""
    import webdataset

    samples = PairSamples([TarShards("shards", folder)], PairSettings(size))
    pairs = samples.orders["shards"].size

    def draws() -> Iterator[Draw]:
        for drawn in iter(int, 1):
            yield from (Draw("shards", drawn, position) for position in range(pairs))

    drawn = draws()

    def owl2(count: int) -> None:
        for _ in range(count):
            samples[next(drawn)]

    generator = random.Random(0)
    dataset = webdataset.WebDataset(str(folder / "00000.tar"), shardshuffle=False, empty_check=False)
    stream = iter(
        dataset.decode("pil")
        .to_tuple("jpg", "txt")
        .map_tuple(lambda image: pillow_pixels(image, size, generator))
        .repeat()
    )

    def of_webdataset(count: int) -> None:
        for _ in range(count):
            next(stream)

    return {"owl2": owl2, "webdataset": of_webdataset}


def measure(runs: dict[str, Run], arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Images per second of each, and the ratios of the first to the others, as medians over the rounds."""
    clock = time.process_time if arguments.clock == "processor" else time.perf_counter
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(-1, arguments.rounds):  # the first is not counted
        for name, run in runs.items():
            started = clock()
            run(arguments.images)
            if round_number >= 0:
                rates[name].append(arguments.images / (clock() - started))
    first = next(iter(runs))
    return {
        name: {
            "images_per_second": statistics.median(values),
            "rounds": values,
            "ratio_of_owl2": statistics.median(a / b for a, b in zip(rates[first], values, strict=True)),
        }
        for name, values in rates.items()
    }


def environment(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where and how this ran."""
    from PIL import features

    return {
        "processor": processor_name(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "clock": arguments.clock,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        **{name: version(name) for name in ("torch", "pillow", "webdataset")},
    }


def table(report: dict[str, Any]) -> str:
    """The rates for a terminal."""
    lines = [f"{report['environment']['processor']}, one thread; {report['mean_bytes'] / 1000:.0f} KB a JPEG"]
    lines.append(f"{'':8} {'pixels':>6} {'':11} {'images/s':>9} {'owl2 is':>8} {'target':>7}")
    for result in report["results"]:
        for name, values in result["rates"].items():
            target = TARGETS.get(result["size"], "-") if (result["kind"], name) == ("decode", "owl2") else "-"
            lines.append(
                f"{result['kind']:8} {result['size']:6} {name:11} {values['images_per_second']:9.0f} "
                f"{values['ratio_of_owl2']:7.2f}x {target:>7}"
            )
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 448], help="pixels of a side")
    parser.add_argument("--images", type=int, default=64, help="of each in each round")
    parser.add_argument("--rounds", type=int, default=9, help="at least 5")
    parser.add_argument("--quality", type=int, default=75, help="of the JPEGs; img2dataset's own default is 95")
    parser.add_argument(
        "--clock",
        choices=["processor", "wall"],
        default="processor",
        help="processor: only this process's own time, for a machine that others use too",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--out", type=Path, help="write the JSON to this file")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 5:
        parser.error("medians need at least 5 rounds")
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    files = photographs(16, arguments.quality)
    results = []
    with tempfile.TemporaryDirectory() as directory:
        write_shard(Path(directory), files, 256)
        list(index_shards(directory))
        for size in arguments.sizes:
            for kind, runs in (("decode", decoding_runs(files, size)), ("shards", shard_runs(Path(directory), size))):
                results.append({"kind": kind, "size": size, "rates": measure(runs, arguments)})
    report = {
        "environment": environment(arguments),
        "settings": {name: value for name, value in vars(arguments).items() if name not in ("json", "out")},
        "mean_bytes": statistics.mean(map(len, files)),
        "results": results,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report) if arguments.json else table(report))


if __name__ == "__main__":
    main()
