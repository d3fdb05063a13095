"""Runs at the same time with one cache, and clocks that go backwards."""

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
from training.tiny_recipes import curve, run_recipe

from owl2.data.mixture.cache import record_file_entry
from owl2.evaluation.judge.cache import JudgeCache
from owl2.evaluation.judge.request import Ask, JudgeReply, JudgeRequest

PROCESSES = 4


def _open(cache: Path, file: Path, number: int) -> str:
    return str(record_file_entry(cache, "records", file, None))


def _judge(cache: Path, file: Path, number: int) -> str:
    request = JudgeRequest("judge", Ask(({"role": "user", "content": "How good?"},)))
    for _ in range(50):
        JudgeCache(cache).write(request, JudgeReply(f"{number}" * 2000, None))
        reply = JudgeCache(cache).read(request)
        assert reply is not None and len(set(reply.text)) == 1 and len(reply.text) == 2000
    return "read whole"


@pytest.mark.parametrize("work", [_open, _judge], ids=["records", "replies of a judge"])
def test_processes_share_a_cache(work: Any, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps({"id": number, "conversations": turns}) + "\n" for number in range(3000)))
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        found = pool.starmap(work, [(tmp_path / "cache", file, number) for number in range(PROCESSES)], chunksize=1)
    assert len(found) == PROCESSES and len(set(found)) == 1
    assert not [path for path in (tmp_path / "cache").rglob("*") if "unfinished" in path.name or "partial" in path.name]


def test_a_clock_that_goes_backwards_changes_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    settings = ("checkpoint.every=1", "logging.tensorboard=true", "data.workers=1")
    run_recipe(data, "instruct", tmp_path / "whole", *settings)
    clock, began = [time.time()], time.time

    def backwards() -> float:
        clock[0] -= 3600
        return clock[0]

    monkeypatch.setattr(time, "time", backwards)
    assert run_recipe(data, "instruct", tmp_path / "run", *settings)[0]
    assert began() > clock[0]
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == [
        path.name for path in sorted((tmp_path / "whole" / "checkpoints").iterdir())
    ]
