"""How long a mixture takes to open, what an open one holds in memory, and how fast it is drawn from.

Half of the synthetic conversations come from an annotation file (SlimOrca's format, cached), half from a file of
records (indexed). Everything is measured in fresh processes, side by side with all records and with a tenth of them.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import add_output, show

from owl2.data.mixture import Mixture, load_mixture_recipe
from owl2.data.sampler import WeightedSampler
from owl2.environment import processor_name

RECIPE = """cache: cache
sources:
  slim_orca: {annotations: orca.jsonl, size: all}
  records: {format: records, file: records.jsonl}
"""
DRAWS = 40 * 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_200_000)
    parser.add_argument("--rounds", type=int, default=5)
    add_output(parser)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # what a fresh process does
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure)))
        return
    counts = [arguments.records // 10, arguments.records]
    with tempfile.TemporaryDirectory() as directory:
        recipes = {count: Path(directory) / str(count) / "mixture.yaml" for count in counts}
        built = {count: build(recipe, count) for count, recipe in recipes.items()}
        rounds = [{count: in_fresh_process(recipes[count]) for count in counts} for _ in range(arguments.rounds)]
    result: dict[str, Any] = {"machine": processor_name(), "rounds": arguments.rounds}
    for count in counts:
        names = rounds[0][count]
        medians = {name: statistics.median(round_[count][name] for round_ in rounds) for name in names}
        result[f"{count:,} records"] = {**built[count], **medians}
    show(result, arguments)


def build(recipe: Path, count: int) -> dict[str, float]:
    """Writes the files of a mixture, and reads them into the cache."""
    recipe.parent.mkdir()
    recipe.write_text(RECIPE)
    generator = random.Random(0)
    with (recipe.parent / "orca.jsonl").open("w") as orca, (recipe.parent / "records.jsonl").open("w") as records:
        for _ in range(count // 2):
            question, answer = ("some words " * generator.randint(5, 60) for _ in range(2))
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            orca.write(json.dumps({"conversations": turns}) + "\n")
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            records.write(json.dumps({"messages": messages}) + "\n")
    size = sum(path.stat().st_size for path in recipe.parent.glob("*.jsonl"))
    start = time.perf_counter()
    Mixture(load_mixture_recipe(recipe))
    seconds = time.perf_counter() - start
    return {"files_gb": round(size / 1e9, 3), "read_into_cache_records_per_second": round(count / seconds)}


def in_fresh_process(recipe: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", str(recipe)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(path: Path) -> dict[str, float]:
    before = anonymous_megabytes()
    start = time.perf_counter()
    mixture = Mixture(load_mixture_recipe(path))
    opened = time.perf_counter()
    after_opening = anonymous_megabytes()
    orders = {source.name: mixture.order(source.name) for source in mixture.sources}
    draws = WeightedSampler(mixture.sources, seed=0).draw(DRAWS)
    places = [(draw.source, orders[draw.source].record(draw.epoch, draw.position)) for draw in draws]
    drawn = time.perf_counter()
    for name, number in places:
        mixture.records(name)[number]
    read = time.perf_counter()
    return {
        "open_seconds": round(opened - start, 4),
        "memory_of_opening_mb": round(after_opening - before, 2),
        "memory_after_reading_10240_records_mb": round(anonymous_megabytes() - before, 2),
        "draws_per_second": round(DRAWS / (drawn - opened)),
        "records_read_per_second": round(DRAWS / (read - drawn)),
    }


def anonymous_megabytes() -> float:
    """Memory of this process that it shares with no file and no other process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
