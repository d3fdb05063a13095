"""Generated scenes of the level hard (docs/understand/scenes.md)."""

from owl2.evaluation.tasks.shared.scenes import scenes_task

TASK = scenes_task("scenes_hard", "hard")
