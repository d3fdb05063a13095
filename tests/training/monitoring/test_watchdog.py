"""Stalled ranks are named, and moving ones left alone."""

import socket
from pathlib import Path

import pytest
from training.rank_programs import stall
from training.ranks import start_ranks

from owl2.training.monitoring.watchdog import EXIT_CODE, Heartbeat, StallTracker


def heartbeat(rank: int, beat: int, step: int, phase: str) -> Heartbeat:
    return Heartbeat(f"host{rank}", 100 + rank, beat, step, phase)


def test_a_rank_that_the_others_wait_for_is_named_with_host_and_process() -> None:
    tracker = StallTracker(limit_s=10.0, size=3, now=0.0)
    for second in range(1, 15):
        for rank in range(3):
            tracker.observe(rank, heartbeat(rank, second, 7, "data" if rank == 1 else "compute"), float(second))
        report = tracker.report(float(second))
        assert (report is not None) == (second > 11)  # all stand still since second 1
    assert report is not None
    assert "rank 1 (host host1, process 101, step 7, data)" in report and "rank 0" not in report
    assert "made no progress for 10 s" in report and "furthest rank is at step 7, compute" in report


def test_of_ranks_that_evaluate_the_one_that_stalls_is_named_and_not_those_that_are_done() -> None:
    tracker = StallTracker(limit_s=10.0, size=3, now=0.0)
    for second in range(1, 25):
        left = [max(0, 8 - second), max(0, 20 - second), max(5, 20 - second)]  # the last stops at second 15
        for rank in range(3):
            beat = heartbeat(rank, second, 7, "evaluation")._replace(part=-left[rank])
            tracker.observe(rank, beat, float(second))
        assert tracker.report(float(second)) is None  # rank 1 goes on until second 20
    tracker.observe(2, heartbeat(2, 25, 7, "evaluation")._replace(part=-5), 40.0)
    report = str(tracker.report(31.0))
    assert "rank 2 (host host2" in report and "rank 0" not in report and "rank 1" not in report


def test_a_checkpoint_comes_after_an_evaluation() -> None:
    tracker = StallTracker(limit_s=10.0, size=2, now=0.0)
    tracker.observe(0, heartbeat(0, 1, 7, "checkpoint"), 1.0)
    tracker.observe(1, heartbeat(1, 1, 7, "evaluation"), 1.0)
    for rank, phase in enumerate(("checkpoint", "evaluation")):
        tracker.observe(rank, heartbeat(rank, 2, 7, phase), 12.0)
    assert "rank 1 (host host1" in str(tracker.report(12.0)) and "rank 0 (" not in str(tracker.report(12.0))


def test_a_rank_without_heartbeat_is_named_though_the_others_still_move() -> None:
    tracker = StallTracker(limit_s=10.0, size=2, now=0.0)
    tracker.observe(1, heartbeat(1, 1, 3, "data"), 1.0)
    for second in range(1, 13):
        tracker.observe(0, heartbeat(0, second, second, "data"), float(second))
    report = tracker.report(12.0)
    assert report is not None and "rank 1 (host host1" in report and "no sign of life" in report


def test_a_rank_that_never_came_is_named() -> None:
    tracker = StallTracker(limit_s=10.0, size=2, now=0.0)
    tracker.observe(0, heartbeat(0, 1, 0, "data"), 9.0)
    assert tracker.report(9.0) is None
    assert "rank 1 (never heard of)" in str(tracker.report(11.0))


def test_a_run_that_goes_on_is_left_alone() -> None:
    tracker = StallTracker(limit_s=10.0, size=2, now=0.0)
    for second in range(0, 100, 9):
        for rank in range(2):
            tracker.observe(rank, heartbeat(rank, second, second, "compute"), float(second))
        assert tracker.report(float(second)) is None


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sleep", "stop"])
def test_ranks_that_wait_for_a_stalled_one_end_and_say_which_it_is(how: str, tmp_path: Path) -> None:
    processes, _ = start_ranks(2, stall, 1, how, tmp_path / "errors")
    try:
        processes[0].join(timeout=90)
        if how == "sleep":  # it ends itself too, and where it is first, the other loses its connection instead
            processes[1].join(timeout=30)
        assert processes[0].exitcode not in (None, 0)
        assert EXIT_CODE in [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()
    errors = (tmp_path / "errors").read_text()
    assert f"the run has stalled: rank 1 (host {socket.gethostname()}, process {processes[1].pid}, step" in errors
    wanted = (
        "step 2, data) made no progress for 4 s, and the others wait" if how == "sleep" else "no sign of life for 4 s"
    )
    assert wanted in errors
    assert "all_reduce" in errors  # where rank 0 waits
