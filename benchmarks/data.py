"""How fast stage-1 pairs become pixels, beside Pillow and WebDataset, and how fast instruction records are checked.

Two measurements, one core, one image at a time, at 224 and at 448 pixels, and one of records:

* `decode`: the bytes of a 640 x 480 JPEG to the uint8 pixels of a random resized crop. `owl2` is what training does
  (`decode_image`, `random_crop`, `crop_and_resize`), also `without simplejpeg`; `pillow` decodes and resizes the same
  boxes with Pillow alone; `limit` only decodes, with Pillow.
* `shards`: a tar shard of img2dataset to pixels and captions. `owl2` is `PairSamples` in its random order;
  `webdataset` is `wds.WebDataset(...).decode("pil")` with such boxes and Pillow's resize, in the order of the file.
* `check`: LLaVA's records of one image each, images not opened. `owl2` is `RecordCheck`, as of `owl2 data check F`;
  `parse` only reads the JSON and asks for the size of the image's file.

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
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import add_clock, add_output, clock_of, show
from PIL import Image

from owl2.data.augmentation import random_crop
from owl2.data.check import RecordCheck
from owl2.data.decoding import crop_and_resize, decode_image, width_and_height
from owl2.data.formats import RecordFile
from owl2.data.pairs import PairSamples, PairSettings, TarShards, index_shards
from owl2.data.sampler import Draw
from owl2.environment import processor_name
from owl2.processing import load_image

WIDTH, HEIGHT = 640, 480
TARGETS = {224: 570, 448: 450}
"""Images per core-second that are wanted of `decode`, `owl2`."""
CHECK_TARGET = 100_000 / 60
"""Records per core-second that are wanted of `check`, `owl2`."""

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
            image = decode_image(content)
            crop_and_resize(image, random_crop(*width_and_height(image), generator), size)

    def without_simplejpeg(count: int) -> None:
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

    return {"owl2": owl2, "without simplejpeg": without_simplejpeg, "pillow": pillow, "limit": limit}


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


def write_records(folder: Path, count: int) -> Path:
    """Conversations of two exchanges about one of a thousand small images, as LLaVA writes them."""
    generator = random.Random(0)
    (folder / "images").mkdir()
    for number in range(1000):
        Image.new("L", (8, 8)).save(folder / "images" / f"{number:012d}.png")

    def turn(speaker: str, text: str, words: int) -> dict[str, str]:
        return {"from": speaker, "value": text + "some words " * generator.randint(3, words)}

    file = folder / "records.jsonl"
    with file.open("w") as lines:
        for number in range(count):
            turns = [turn("human", "<image>\n", 10), turn("gpt", "", 60), turn("human", "", 10), turn("gpt", "", 60)]
            image = f"images/{generator.randrange(1000):012d}.png"
            lines.write(json.dumps({"id": f"{number:012d}", "image": image, "conversations": turns}) + "\n")
    return file


def check_runs(file: Path) -> dict[str, Run]:
    """From a file of records to what is wrong with them: nothing."""

    def owl2(count: int) -> None:
        check = RecordCheck(RecordFile(file))
        assert not list(check) and check.summary.records == count

    def parse(count: int) -> None:
        with file.open("rb") as lines:
            for line in lines:
                os.stat(file.parent / json.loads(line)["image"])

    return {"owl2": owl2, "parse": parse}


def measure(runs: dict[str, Run], count: int, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Rate of each, and the ratios of the first to the others, as medians over the rounds.

    Args:
        count: Images or records of a round.
    """
    clock = clock_of(arguments)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(-1, arguments.rounds):  # the first is not counted
        for name, run in runs.items():
            started = clock()
            run(count)
            if round_number >= 0:
                rates[name].append(count / (clock() - started))
    first = next(iter(runs))
    return {
        name: {
            "per_second": statistics.median(values),
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
        "simplejpeg": version("simplejpeg") if find_spec("simplejpeg") else None,
    }


def table(report: dict[str, Any]) -> str:
    """The rates for a terminal."""
    lines = [f"{report['environment']['processor']}, one thread; {report['mean_bytes'] / 1000:.0f} KB a JPEG"]
    lines.append(f"{'':8} {'pixels':>6} {'':18} {'per s':>9} {'owl2 is':>8} {'target':>7}")
    for result in report["results"]:
        for name, values in result["rates"].items():
            target = f"{result['target']:.0f}" if name == "owl2" and result["target"] is not None else "-"
            lines.append(
                f"{result['kind']:8} {result['size'] or '-':>6} {name:18} {values['per_second']:9.0f} "
                f"{values['ratio_of_owl2']:7.2f}x {target:>7}"
            )
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 448], help="pixels of a side")
    parser.add_argument("--images", type=int, default=64, help="of each in each round")
    parser.add_argument("--records", type=int, default=4000, help="that are checked in each round")
    parser.add_argument("--rounds", type=int, default=9, help="at least 5")
    parser.add_argument("--quality", type=int, default=75, help="of the JPEGs; img2dataset's own default is 95")
    add_clock(parser, "processor")
    add_output(parser, has_table=True)
    arguments = parser.parse_args(argv)
    if arguments.rounds < 5:
        parser.error("medians need at least 5 rounds")
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    files = photographs(16, arguments.quality)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        write_shard(Path(directory), files, 256)
        list(index_shards(directory))
        for size in arguments.sizes:
            for kind, runs in (("decode", decoding_runs(files, size)), ("shards", shard_runs(Path(directory), size))):
                target = TARGETS.get(size) if kind == "decode" else None
                rates = measure(runs, arguments.images, arguments)
                results.append({"kind": kind, "size": size, "target": target, "rates": rates})
        runs = check_runs(write_records(Path(directory), arguments.records))
        rates = measure(runs, arguments.records, arguments)
        results.append({"kind": "check", "size": None, "target": CHECK_TARGET, "rates": rates})
    report = {
        "environment": environment(arguments),
        "settings": {name: value for name, value in vars(arguments).items() if name not in ("json", "out")},
        "mean_bytes": statistics.mean(map(len, files)),
        "results": results,
    }
    show(report, arguments, table(report))


if __name__ == "__main__":
    main()
