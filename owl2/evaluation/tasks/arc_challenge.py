"""ARC-Challenge; see `arc`."""

from owl2.evaluation.tasks.shared.arc import arc_task

TASK = arc_task("arc_challenge", "Challenge", {"dev": 299, "test": 1172}, "arc_c")
