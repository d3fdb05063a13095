"""The cost of a recipe as tables for a terminal."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .estimate import Cost


def cost_tables(cost: Cost) -> Iterator[RenderableType]:
    """Tables of parameters, operations, memory, time, and of changes where it does not fit."""
    yield _parameters(cost)
    yield _operations(cost)
    yield _memory(cost)
    for line in _summary(cost):
        yield Text(line)


def _parameters(cost: Cost) -> Table:
    table = Table(title="Parameters, in millions")
    table.add_column("part")
    for heading in ("all", "trained", "frozen"):
        table.add_column(heading, justify="right")
    counts = cost.parameters
    rows = [(part.replace("_", " "), count, counts.trained[part]) for part, count in counts.all.items()]
    if counts.adapters:
        rows.append(("lora", counts.adapters, counts.adapters))
    for name, count, trained in rows:
        table.add_row(name, *(_millions(value) for value in (count, trained, count - trained)))
    total, trained = sum(row[1] for row in rows), sum(row[2] for row in rows)
    table.add_section()
    table.add_row("all", *(_millions(value) for value in (total, trained, total - trained)))
    return table


def _operations(cost: Cost) -> Table:
    sample = cost.sample
    held = f"{sample.text_tokens:g} tokens of text, {sample.images:g} images of {sample.image_size} px"
    table = Table(title=f"GFLOP a sample: {held}")
    table.add_column("component")
    table.add_column("forward", justify="right")
    table.add_column("training", justify="right")
    for name, forward in cost.flops.forward.items():
        table.add_row(name.replace("_", " "), _giga(forward), _giga(cost.flops.training[name]))
    table.add_section()
    table.add_row("all", _giga(sum(cost.flops.forward.values())), _giga(cost.flops.total))
    return table


def _memory(cost: Cost) -> Table:
    batch = cost.micro_batch
    table = Table(title=f"GiB of one GPU: {batch.tokens:g} tokens and {batch.images:.3g} images at a time")
    table.add_column("kind")
    table.add_column("GiB", justify="right")
    for kind, count in cost.memory.items():
        table.add_row(kind, _gib(count))
    table.add_section()
    table.add_row("all", _gib(cost.memory_bytes))
    table.add_row("the GPU has", _gib(cost.gpu.memory))
    return table


def _summary(cost: Cost) -> Iterator[str]:
    for text in cost.assumed:
        yield f"assumed: {text}"
    saved = 1 - cost.flops.total / cost.flops.if_all_trained
    if saved > 0.005:
        yield f"gradients of frozen weights are not computed: {saved:.0%} of the operations saved"
    work = f"{cost.samples:,} samples, {_operations_in_all(cost.total_flops)}"
    yield f"{work}; {cost.micro_batches} micro-batches of a GPU in a step"
    peak = f"{cost.gpu.flops / 1e12:,.0f} TFLOP/s in bf16 ({cost.gpu.source})"
    total = cost.hours * cost.gpus
    yield f"{_hours(cost.hours)} on {cost.gpus} GPUs of {peak} at an MFU of {cost.mfu:.0%}: {total:,.1f} GPU hours"
    if cost.fits:
        yield f"it fits: {_gib(cost.memory_bytes)} of {_gib(cost.gpu.memory)} GiB"
        return
    yield f"IT DOES NOT FIT: {_gib(cost.memory_bytes)} GiB are needed, and a GPU has {_gib(cost.gpu.memory)}. Change:"
    for change, after in cost.advice.items():
        yield f"  {change}: {_gib(after)} GiB" + ("" if after <= cost.gpu.memory else ", which is still too much")
    if not cost.advice:
        yield "  a GPU with more memory, a shorter data.packing.length, or a smaller model"


def _millions(count: float) -> str:
    return f"{count / 1e6:,.1f}" if count else "-"


def _giga(count: float) -> str:
    return f"{count / 1e9:,.4g}"


def _operations_in_all(count: float) -> str:
    unit, size = ("EFLOP", 1e18) if count >= 1e17 else ("TFLOP", 1e12)
    return f"{count / size:,.4g} {unit}"


def _gib(count: float) -> str:
    return f"{count / 2**30:,.2f}"


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{hours * 60:,.1f} minutes" if hours >= 1 / 60 else f"{hours * 3600:,.2g} seconds"
