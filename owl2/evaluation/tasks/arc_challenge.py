"""ARC-Challenge; see `arc`."""

from .arc import arc_task

TASK = arc_task("arc_challenge", "Challenge", {"dev": 299, "test": 1172}, "arc_c")
