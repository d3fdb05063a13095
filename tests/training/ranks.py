"""Starts ranks of a function on this machine, as torchrun would, with a time limit and failures that can be read."""

import multiprocessing
import os
import random
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import torch


class RankFailed(AssertionError):
    """A rank raised, died or did not end in time."""


def run_ranks(size: int, function: Callable[..., Any], *arguments: Any, limit_s: float = 300.0) -> list[Any]:
    """What a function returns on each of `size` ranks.

    Args:
        function: Defined at the top of an importable module; called with the arguments in a new process that has
            torchrun's environment. It must be picklable, and so must what it returns.
    """
    processes, pipes = start_ranks(size, function, *arguments)
    deadline = time.monotonic() + limit_s
    try:
        return [_result(rank, pipe, deadline) for rank, pipe in enumerate(pipes)]
    finally:
        for process in processes:
            process.kill()
            process.join()


def start_ranks(
    size: int, function: Callable[..., Any], *arguments: Any
) -> tuple[list[multiprocessing.process.BaseProcess], list[Connection]]:
    """Processes and the pipes that their results come from.

    They are forked from a server that has imported what ranks need, once for all tests of this process; its environment
    is that of its first use.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.rank_programs"])
    port = _free_port()
    processes, pipes = [], []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_enter, args=(theirs, rank, size, port, function, arguments), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    return processes, pipes


def _enter(
    pipe: Connection, rank: int, size: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
    torch.set_num_threads(1)
    try:
        pipe.send((True, function(*arguments)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
        raise


def _result(rank: int, pipe: Connection, deadline: float) -> Any:
    if not pipe.poll(max(0.0, deadline - time.monotonic())):
        raise RankFailed(f"rank {rank} did not end in time")
    try:
        succeeded, value = pipe.recv()
    except EOFError:
        raise RankFailed(f"rank {rank} died") from None
    if not succeeded:
        raise RankFailed(f"rank {rank} raised:\n{value}")
    return value


def _free_port() -> int:
    """A port that is free with the next 15, for runs that follow each other.

    It lies below those that Linux gives to connections, which could take it before a rank listens there.
    """
    while True:
        first = random.SystemRandom().randrange(16_000, 32_000, 16)
        with ExitStack() as probes:
            try:
                for port in range(first, first + 16):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
