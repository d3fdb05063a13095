"""A model is measured every N steps, by what the recipe names."""

from typing import Any

import pytest

from owl2.training.monitoring import evaluator
from owl2.training.monitoring.benchmark_scores import TaskScore
from owl2.training.monitoring.evaluator import Evaluator
from owl2.training.monitoring.validation_loss import HeldOutLoss

LOSS = HeldOutLoss(1.5, 30, 4)
POPE = TaskScore("f1", 0.75, 12, "pope_official", {"f1": 0.75, "accuracy": 0.8})


class Benchmarks:
    """Notes the steps after which it is asked."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def measure(self, model: Any, step: int, *_: Any) -> dict[str, TaskScore]:
        self.steps.append(step)
        return {"pope": POPE}


@pytest.mark.parametrize(("every", "due"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (3, [3, 6])])
def test_it_is_due_every_n_steps_and_never_for_0(every: int, due: list[int]) -> None:
    asked: Any = Evaluator(every, None, None, None)  # type: ignore[arg-type]
    assert [step for step in range(1, 7) if asked.is_due(step)] == due


@pytest.mark.parametrize("validation", [None, object()])
@pytest.mark.parametrize("benchmarks", [None, Benchmarks()])
def test_what_is_measured_is_what_there_is_to_measure(
    validation: Any, benchmarks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "validation_loss", lambda *_: LOSS)
    nothing: Any = None
    found = Evaluator(2, validation, benchmarks, nothing).measure(nothing, 4, nothing, nothing, nothing)
    wanted = {} if validation is None else {"validation_loss": 1.5}
    wanted |= {} if benchmarks is None else {"pope_f1": 0.75}
    assert found.scores() == wanted
    assert set(found.to_dict()) == ({"loss", "supervised_tokens", "samples"} if validation else set()) | (
        {"tasks"} if benchmarks else set()
    )
    assert benchmarks is None or benchmarks.steps[-1] == 4
