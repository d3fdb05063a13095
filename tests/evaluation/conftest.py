"""Shared by the tests of the evaluation: the way from files to predictions."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer

from owl2.evaluation.inference.ranks import Ranks
from owl2.evaluation.plan import Settings, plan_task
from owl2.evaluation.runner import predict
from owl2.evaluation.tasks import task_named
from owl2.modeling import Owl2ForConditionalGeneration
from owl2.processing import Owl2Processor


@pytest.fixture
def predicted(model: Owl2ForConditionalGeneration, processor: Owl2Processor, tmp_path: Path) -> Callable[..., Path]:
    """Predicts a task whose files lie below a root as `owl2 evaluate` does, and returns the directory to score."""

    def run(task: str, data: Path, batch_size: int = 4, **settings: Any) -> Path:
        wanted = Settings(data, tmp_path / "run", batch_size=batch_size, **settings)
        planned = plan_task(task_named(task), wanted, {"model": {"name": "tiny"}, "versions": {}})
        assert predict(planned, model, processor, Ranks(), batch_size) is not None
        return planned.directory

    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    """A judge that the test tells what to say; there is no key yet."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    running = JudgeServer()
    yield running
    running.close()
