"""How fast a server answers, whether it answers as `generate` does, and whether it bears a crowd and mishaps.

`--mode speed`: requests with images at 1, 4, 16, 64 clients: time to the first token, time between tokens, tokens a
second; beside them, in the same run and on the same weights, `generate` for one request after the other and for one
padded batch, with `--transformers-serve` also that server, and with `--url NAME=ADDRESS` any other of the OpenAI API
with the same weights, such as vLLM. Answers that differ from those of `generate` alone are counted: none in float32,
and the measured rate of broken ties with `--dtype bfloat16`. Tokens a second of processor time compare fairly on a
machine that others use, with one thread.

Every request of a run has an image and a text of its own, so no cache of an earlier one helps. Answers have one length:
the end of the turn is forbidden, in `generate` and by `logit_bias`.

`--mode soak` and `--mode chaos`: see `serving_endurance.py`.
"""

import argparse
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import machine_facts
from serving_endurance import chaos, soak
from serving_requests import (
    Generator,
    Request,
    Server,
    ask,
    body_of,
    elsewhere,
    make_requests,
    message_parts,
    owl2_serve,
    transformers_serve,
    vllm_serve,
)

Row = dict[str, float]


def measure_server(server: Server, requests: list[Request], clients: int, tokens: int, ends: list[int]) -> Row:
    """All requests, as many at a time as there are clients."""
    bodies = [body_of(server, message_parts(request), tokens, ends) for request in requests]
    spent, began = server.processor_seconds(), time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        answers = list(threads.map(lambda body: ask(server, body, tokens), bodies))
    seconds = time.perf_counter() - began
    failed = [answer.error for answer in answers if answer.error]
    if failed:
        raise SystemExit(f"{server.url}: {len(failed)} of {len(answers)} requests failed: {failed[0]}")
    first = [answer.times[0] for answer in answers if answer.times]
    between = [later - earlier for each in answers for earlier, later in zip(each.times, each.times[1:], strict=False)]
    total = sum(answer.tokens for answer in answers)
    row = {
        "tokens_per_second": total / seconds,
        "first_token_median_seconds": statistics.median(first),
        "first_token_worst_seconds": max(first),
        "between_tokens_median_seconds": statistics.median(between) if between else 0.0,
        "between_tokens_worst_seconds": max(between, default=0.0),
        "different": sum(answer.text != each.expected for answer, each in zip(answers, requests, strict=True)),
        "requests": len(requests),
    }
    if spent is not None:
        row["tokens_per_processor_second"] = total / ((server.processor_seconds() or 0.0) - spent)
    return row


def measure_generate(generator: Generator, requests: list[Request], clients: int) -> tuple[Row, Row]:
    """One request after the other, which also fills in what is expected, and padded batches of the clients' number."""

    def sequential() -> list[str]:
        return [generator.answer([request])[0] for request in requests]

    def batched() -> list[str]:
        starts = range(0, len(requests), clients)
        return [text for start in starts for text in generator.answer(requests[start : start + clients])]

    rows: list[Row] = []
    for run in (sequential, batched):
        spent, began = time.process_time(), time.perf_counter()
        answers = run()
        spent, seconds = time.process_time() - spent, time.perf_counter() - began
        if run is sequential:
            for request, answer in zip(requests, answers, strict=True):
                request.expected = answer
        total = len(requests) * generator.tokens
        different = sum(answer != request.expected for answer, request in zip(answers, requests, strict=True))
        counts = {"different": different, "requests": len(requests)}
        rows.append({"tokens_per_second": total / seconds, "tokens_per_processor_second": total / spent, **counts})
    return rows[0], rows[1]


def show(clients: int, prompt_tokens: list[int], rows: dict[str, Row]) -> None:
    sequential, batch = rows["generate, sequential"], rows["generate, one batch"]
    print(f"\n{clients} clients, prompts of {min(prompt_tokens)} to {max(prompt_tokens)} tokens")
    print(
        f"  {'':<22}{'tokens/s':>9}{'/ sequential':>14}{'/ batch':>9}   by processor time"
        f"{'first':>10}{'next':>9}  different"
    )
    for name, row in rows.items():
        line = f"  {name:<22}{row['tokens_per_second']:>9.1f}"
        for unit, widths in (("tokens_per_second", (12, 9)), ("tokens_per_processor_second", (9, 9))):
            rate = row.get(unit)
            if rate is None:
                line += " " * (sum(widths) + 2)
            else:
                line += f"{rate / sequential[unit]:>{widths[0]}.2f} x{rate / batch[unit]:>{widths[1]}.0%}"
        first, between = row.get("first_token_median_seconds"), row.get("between_tokens_median_seconds")
        line += f"{first:>8.3f} s{between:>7.3f} s" if first is not None else " " * 19
        rate = row["different"] / row["requests"]
        print(f"{line}{int(row['different']):>6} of {int(row['requests'])} ({rate:.1%})")


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    generator = Generator(arguments.model, arguments.dtype, arguments.device, arguments.tokens)
    warm = make_requests(1, arguments.images, arguments.words, seed=-1)[0]
    generator.answer([warm])
    results: dict[str, dict[str, Row]] = {}
    lengths: dict[str, list[int]] = {}
    with ExitStack() as stack:
        servers = {"owl2 serve": stack.enter_context(owl2_serve(*_own(arguments)))}
        if arguments.transformers_serve:
            other = transformers_serve(arguments.model, arguments.dtype, arguments.device)
            servers["transformers serve"] = stack.enter_context(other)
        if arguments.vllm:
            other = vllm_serve(arguments.vllm, arguments.model, arguments.dtype)
            servers["owl2 serve, vLLM"] = stack.enter_context(other)
        for name, url in (each.split("=", 1) for each in arguments.url):
            servers[name] = elsewhere(url)
        for name, server in servers.items():
            answer = ask(server, body_of(server, message_parts(warm), 4, generator.ends), 4)
            if answer.error:
                raise SystemExit(f"{name} does not answer: {answer.error}")
        for clients in arguments.clients:
            print(f"{clients} clients ...", file=sys.stderr, flush=True)
            requests = make_requests(clients * arguments.requests, arguments.images, arguments.words, seed=clients)
            names = ("generate, sequential", "generate, one batch")
            rows = dict(zip(names, measure_generate(generator, requests, clients), strict=True))
            for name, server in servers.items():
                rows[name] = measure_server(server, requests, clients, arguments.tokens, generator.ends)
            lengths[str(clients)] = generator.prompt_tokens(requests)
            show(clients, lengths[str(clients)], rows)
            results[str(clients)] = rows
    return {"by_clients": results, "prompt_tokens": lengths}


def _own(arguments: argparse.Namespace) -> tuple[str, str, str, list[str]]:
    return arguments.model, arguments.dtype, arguments.device, arguments.settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=["speed", "soak", "chaos"], default="speed")
    parser.add_argument("--model", required=True, help="directory of the checkpoint")
    parser.add_argument("--transformers-serve", action="store_true", help="measure it too")
    parser.add_argument("--vllm", metavar="PYTHON", help="measure vLLM too, with the python of its environment")
    parser.add_argument("--url", action="append", default=[], metavar="NAME=ADDRESS", help="another server")
    parser.add_argument("--clients", type=int, nargs="+", help="1 4 16 64; of soak and chaos one number, 64 and 16")
    parser.add_argument("--minutes", type=float, default=10.0, help="of soak and chaos")
    parser.add_argument("--requests", type=int, default=1, help="of each client")
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--images", type=int, default=1, help="of each request")
    parser.add_argument("--words", type=int, default=60, help="of each request, at most")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE", help="of owl2 serve")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    arguments.clients = arguments.clients or {"speed": [1, 4, 16, 64], "soak": [64], "chaos": [16]}[arguments.mode]
    if arguments.mode == "speed":
        report = speed(arguments)
    else:
        (clients,) = arguments.clients
        generator = Generator(arguments.model, arguments.dtype, arguments.device, arguments.tokens)
        run = soak if arguments.mode == "soak" else chaos
        report = run(generator, _own(arguments), clients, arguments.minutes * 60, arguments.images, arguments.words)
    if arguments.out:
        names = ("mode", "clients", "requests", "tokens", "images", "words", "dtype", "settings")
        options = {name: getattr(arguments, name) for name in names}
        report = {**report, **options, **machine_facts(arguments.device.startswith("cuda"))}
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
