"""Steps that would spoil a run are skipped, and a run that goes wrong or hangs ends with a reason."""

import json
import math

import pytest

from owl2.training.monitoring.loss_spikes import FIRST_JUDGED, LossSpikeGuard, TrainingDiverged


def guard(in_a_row: int = 2, in_all: int = 4) -> LossSpikeGuard:
    found = LossSpikeGuard(spike_factor=3.0, in_a_row=in_a_row, in_all=in_all)
    for step in range(FIRST_JUDGED):
        assert found.reason_to_skip(step, 2.0 - 0.01 * step, 1.0) is None
    return found


def test_a_loss_far_above_the_running_median_is_skipped_and_forgotten() -> None:
    watched = guard()
    assert watched.reason_to_skip(11, 5.8, 1.0) is None  # under three times the median of 1.955
    assert watched.reason_to_skip(12, 5.9, 1.0) == "loss spike"
    assert watched.reason_to_skip(13, 5.8, 1.0) is None  # the skipped loss did not move the median
    assert watched.skipped == {"loss spike": 1, "loss not finite": 0, "gradient not finite": 0}


def test_the_first_losses_are_no_spikes() -> None:
    watched = LossSpikeGuard(3.0, 0, 0)
    assert all(watched.reason_to_skip(step, loss, 1.0) is None for step, loss in enumerate([1.0, 9.0, 1.0, 99.0]))


@pytest.mark.parametrize("loss, norm, reason", [
    (math.nan, 1.0, "loss not finite"), (math.inf, 1.0, "loss not finite"),
    (1.0, math.nan, "gradient not finite"), (1.0, math.inf, "gradient not finite"),
])  # fmt: skip
def test_what_is_not_finite_is_skipped_from_the_first_step(loss: float, norm: float, reason: str) -> None:
    assert LossSpikeGuard(3.0, 1, 1).reason_to_skip(0, loss, norm) == reason


def test_too_many_in_a_row_end_the_run_with_the_reason() -> None:
    watched = guard(in_a_row=2, in_all=9)
    watched.reason_to_skip(11, math.nan, 1.0)
    watched.reason_to_skip(12, 50.0, 1.0)
    with pytest.raises(TrainingDiverged, match="step 13 .*gradient not finite.*3 in a row.*1 x loss spike"):
        watched.reason_to_skip(13, 1.0, math.inf)


def test_too_many_in_all_end_the_run_though_good_steps_lie_between() -> None:
    watched = guard(in_a_row=2, in_all=4)
    for step in range(4):
        assert watched.reason_to_skip(2 * step, 50.0, 1.0) == "loss spike"
        assert watched.reason_to_skip(2 * step + 1, 2.0, 1.0) is None
    with pytest.raises(TrainingDiverged, match="1 in a row, 5 in total"):
        watched.reason_to_skip(9, 50.0, 1.0)


def test_a_resumed_run_judges_as_if_it_had_never_stopped() -> None:
    one, other = guard(), LossSpikeGuard(3.0, 2, 4)
    one.reason_to_skip(11, 50.0, 1.0)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for step, loss in enumerate([5.9, 2.0, 5.8, 5.9]):
        assert one.reason_to_skip(step, loss, 1.0) == other.reason_to_skip(step, loss, 1.0)
    assert one.state_dict() == other.state_dict()
