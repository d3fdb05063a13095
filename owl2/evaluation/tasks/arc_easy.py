"""ARC-Easy; see `arc`."""

from owl2.evaluation.tasks.shared.arc import arc_task

TASK = arc_task("arc_easy", "Easy", {"dev": 570, "test": 2376}, "arc_e")
